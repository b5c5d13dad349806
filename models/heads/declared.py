"""A declared head: a linear map from what one decoder layer gives, or the model's own head.

A file's header says how wide it is, before any weight is read; neither torch nor transformers is
needed for that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.spec import OWN_HEAD, ModelSpec
from ..errors import ModelError, first_line, read_by_a_library

FILE, CONFIG = "head.safetensors", "head.json"  # of a folder, as ``descant train probe`` writes it
CURE = "a head is a safetensors file with weight (outputs, hidden) and, if wanted, bias (outputs,)"
_FLOATS = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True)
class DeclaredHead:
    """A head as it is declared.

    Attributes:
        name: as declared, and ``on``, the declared model whose layer it reads.
        layer: a decoder layer, counted from 0.
        source: a safetensors file, ``own``, or what is in memory.
        outputs: numbers that it gives; None for the model's own head.
        hidden: the width that it reads; None where only running it tells.
    """

    name: str
    on: str
    layer: int
    source: Any
    outputs: int | None
    hidden: int | None

    @property
    def is_own(self) -> bool:
        """Whether it is the model's own norm and head."""
        return self.outputs is None

    @property
    def gives_scores(self) -> bool:
        """Whether it is to be as wide as the vocabulary; otherwise it gives one number."""
        return self.outputs != 1

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from other heads."""
        source = self.source if isinstance(self.source, str) else id(self.source)
        return self.name, self.layer, source


def declared_head(name: str, spec: ModelSpec) -> DeclaredHead:
    """What a declaration says of a head, and the header of its file.

    Raises:
        ModelError: no such file, one that holds no head, or a layer that is not known, or two.
    """
    assert spec.on is not None
    source, layer = spec.head, spec.layer
    if isinstance(source, str) and source != OWN_HEAD:
        source, saved = _file(name, source)
        if layer is not None and saved not in (None, layer):
            problem = f"the head {name} is declared on layer {layer}, and {CONFIG} beside it says"
            raise ModelError(f"{problem} {saved}", "leave layer out, or give that head", name)
        layer = saved if layer is None else layer
    if layer is None:
        cure = f"write layer: N, a decoder layer of {spec.on}, counted from 0"
        raise ModelError(f"the head {name} is of no layer", cure, name)
    if isinstance(source, str) and source == OWN_HEAD:
        return DeclaredHead(name, spec.on, layer, source, None, None)
    outputs, hidden = _of_file(name, source) if isinstance(source, str) else _held(name, source)
    return DeclaredHead(name, spec.on, layer, source, outputs, hidden)


class Heads(Mapping[str, DeclaredHead]):
    """The heads among declared models; each is read when it is first asked for."""

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self._specs = {name: spec for name, spec in specs.items() if spec.head is not None}
        self._read: dict[str, DeclaredHead] = {}

    def __getitem__(self, name: str) -> DeclaredHead:
        if name not in self._read:
            self._read[name] = declared_head(name, self._specs[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)


def _file(name: str, source: str) -> tuple[str, int | None]:
    """The file of a head, and the layer that the file beside it gives."""
    path = Path(os.path.expanduser(source))
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        what = f"has no {FILE}" if path.is_dir() else "is not there"
        raise ModelError(f"the head {name} in {source} {what}", CURE, name)
    config = file.parent / CONFIG
    if file.name != FILE or not config.is_file():
        return str(file), None
    try:
        layer = json.loads(config.read_text(encoding="utf-8"))["layer"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"{config} of the head {name} gives no layer: {first_line(error)}"
        raise ModelError(problem, "it is as descant train probe writes it", name) from None
    if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        raise ModelError(f"{config} of the head {name} gives no layer", "write a number", name)
    return str(file), layer


def _of_file(name: str, path: str) -> tuple[int, int]:
    """Outputs and hidden size, by a file's header."""
    from safetensors import safe_open

    def unreadable(error: BaseException) -> ModelError:
        return ModelError(f"the head {name} in {path} cannot be read: {first_line(error)}", CURE)

    with read_by_a_library(unreadable), safe_open(path, "np") as file:
        slices = {key: file.get_slice(key) for key in sorted(file.keys())}
        shapes = {key: tuple(each.get_shape()) for key, each in slices.items()}
        dtypes = {key: each.get_dtype() for key, each in slices.items()}
    where = f"the head {name} in {path}"
    if "weight" not in shapes or shapes.keys() - {"weight", "bias"}:
        raise ModelError(f"{where} has {', '.join(shapes) or 'nothing'}", CURE, name)
    if wrong := sorted({*dtypes.values()} - _FLOATS):
        raise ModelError(f"{where} is in {wrong[0]}", "its numbers are floating-point", name)
    return _sizes(name, where, shapes["weight"], shapes.get("bias"))


def _held(name: str, source: Any) -> tuple[int, int | None]:
    """Outputs and hidden size of a head in memory; a module's are those of its last linear one."""
    where = f"the head {name}"
    if hasattr(source, "modules"):
        linear = [each for each in source.modules() if hasattr(each, "out_features")]
        if not linear:
            problem = f"{where}, a {type(source).__name__}, has no linear layer"
            raise ModelError(f"{problem}, and so no width", "give one that ends in such", name)
        return int(linear[-1].out_features), None
    weight, bias = source if isinstance(source, (tuple, list)) else (source, None)
    if not hasattr(weight, "shape"):
        cure = "give a path, own, a torch module, a weight (outputs, hidden), or (weight, bias)"
        raise ModelError(f"{where} is a {type(source).__name__}", cure, name)
    shape = tuple(weight.shape)
    shape = (1, *shape) if len(shape) == 1 else shape
    return _sizes(name, where, shape, None if bias is None else tuple(bias.shape))


def _sizes(
    name: str, where: str, weight: tuple[int, ...], bias: tuple[int, ...] | None
) -> tuple[int, int]:
    if len(weight) != 2 or 0 in weight:
        raise ModelError(f"{where} has a weight of {weight}", CURE, name)
    if bias not in (None, weight[:1]):
        raise ModelError(f"{where} has a weight of {weight} and a bias of {bias}", CURE, name)
    return weight
