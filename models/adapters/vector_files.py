"""Steering vectors as files: a direction per decoder layer, checked, in safetensors or GGUF.

A tensor ``direction.N`` is added to the output of decoder layer N, counted from 0: the vector that
transformers calls ``hidden_states[N + 1]``. That is what repeng (``export_gguf``) and llama.cpp
(control vectors) do with that name, and their files are read as they are. llama.cpp itself takes no
``direction.0``; its cvector-generator measures ``direction.N`` at the output of layer N - 1, and
adds it, as we do, to that of layer N. No base model is needed here.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ...disk import written
from ...errors import quoted, shortened
from ...extras import pip_install
from ..checkpoint.description import LAYERS
from ..checkpoint.gguf import is_gguf, with_checked_writes
from ..checkpoint.gguf_header import check_header
from ..checkpoint.hub import cached, hub_error
from ..errors import ModelError, first_line, read_by_a_library

FILE = "vector.safetensors"
FILES = (FILE, "vector.gguf")  # of a folder with several files, and of a hub id
NUMBERS = 1 << 27  # of all directions of a vector
ARCHITECTURE = "controlvector"  # of a GGUF file
_PREFIX = "direction."
_NUMBER = re.compile(r"[0-9]{1,6}")
_CURE = "a steering vector is a safetensors or GGUF file with a tensor direction.N for each layer N"
_PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save's; a safetensors file may begin with 0x80, too
_Part = tuple[str, tuple[int, ...], Callable[[], Any]]  # name, shape, and how it is read


def read_vector(
    name: str, source: str | os.PathLike[str] | Mapping[int, Any], revision: str | None = None
) -> dict[int, Tensor]:
    """Read a steering vector.

    Args:
        name: the declared name, for messages.
        source: a safetensors or GGUF file, a folder with one, a hub id (of a repository with
            ``vector.safetensors`` or ``vector.gguf``, or with the file's name after it), or in
            memory a mapping of layer numbers to directions ``(hidden,)``.
        revision: of a hub id.

    Returns:
        The direction of each layer, ``(hidden,)`` float32 on the CPU, by decoder layer counted
        from 0, in that order.

    Raises:
        ModelError: no such file, or one that holds no steering vector.
    """
    if isinstance(source, Mapping):
        where = f"the steering vector {name}"
        parts = [_in_memory(name, layer, value) for layer, value in source.items()]
        return _directions(name, where, parts)
    path = vector_file(name, os.fspath(source), revision)
    where = f"the steering vector {name} in {path}"

    magic = b""

    def unreadable(error: BaseException) -> ModelError:
        if magic.startswith(_PICKLES):
            problem = f"{where} was saved with torch.save, which can run code when it is read"
            cure = "write it with safetensors' save_file, a tensor direction.N for each layer N"
            return ModelError(problem, cure, name)
        return ModelError(f"{where} cannot be read: {first_line(error)}", _CURE, name)

    with read_by_a_library(unreadable):
        with open(path, "rb") as file:
            magic = file.read(4)
        parts = _of_gguf(name, path) if magic == b"GGUF" else _of_safetensors(path)
        return _directions(name, where, parts)


def vector_file(name: str, source: str, revision: str | None = None) -> str:
    """The file of a steering vector: a path, the file of a folder, or one of the hub.

    Raises:
        ModelError: no such file, or a folder with none or several.
    """
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        return _of_folder(name, Path(path))
    if os.path.isfile(path):
        return path
    if os.path.exists(path) or source.startswith((".", "/", "~")):
        fault = "is no file" if os.path.exists(path) else "is not there"
        raise ModelError(f"the steering vector {name} in {source} {fault}", _CURE, name)
    repository, names = source, list(FILES)
    if source.count("/") > 1:
        owner, project, file = source.split("/", 2)
        repository, names = f"{owner}/{project}", [file]
    try:
        for file in names:
            is_last = file == names[-1]
            absences = [] if is_last else ["missing_entries"]
            if found := cached(repository, file, revision, absences):
                return found
    except OSError as error:
        other = f"{source} cannot be found: ", f"give a file, a folder or a hub id; {_CURE}"
        raise hub_error(error, repository, revision, name, other, "the steering vector ") from error
    raise ModelError(f"{source} has no steering vector {' or '.join(names)}", _CURE, name)


def write_vector(
    path: str | os.PathLike[str],
    directions: Mapping[int, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a steering vector, at once: GGUF where the path ends so, else safetensors.

    Args:
        path: the file; an earlier one is replaced.
        directions: of decoder layers, counted from 0; ``(hidden,)`` each, written as float32.
        metadata: texts about it: a JSON object under ``vector`` in a safetensors file's metadata.
            A GGUF file has ``model_hint``, its base's kind, under llama.cpp's name for it and the
            others under ``descant.``.

    Raises:
        ModelError: directions that ``read_vector`` would refuse, or no package for GGUF.
        DiskError: the file cannot be written.
    """
    file, texts = Path(path), dict(metadata or {})
    parts = [_in_memory(file.name, layer, value) for layer, value in directions.items()]
    checked = _directions(file.name, f"the steering vector for {file}", parts)
    tensors = {f"{_PREFIX}{layer}": tensor for layer, tensor in checked.items()}
    if is_gguf(file):
        _check_package(file.name, str(file))
    with written(file) as partial_file:
        if is_gguf(file):
            _write_gguf(partial_file, tensors, texts)
        else:
            # One key: safetensors writes several in any order, and a file is to be the same again.
            # As bytes: its save_file leaves a file of its own behind where it is killed.
            about = {"vector": json.dumps(texts, sort_keys=True)}
            partial_file.write_bytes(save(tensors, about))


def _of_folder(name: str, folder: Path) -> str:
    """The vector's file in a folder: the one with its name, or the only one."""
    for file in FILES:
        if (folder / file).is_file():
            return str(folder / file)
    files = [file for file in sorted(folder.iterdir()) if _is_kind(file)]
    if len(files) == 1:
        return str(files[0])
    found = f"has {len(files)}, such as {files[0].name}" if files else "has none"
    problem = f"the steering vector {name} is a file of {folder}, which {found}"
    raise ModelError(problem, f"give the file; {_CURE}", name)


def _is_kind(file: Path) -> bool:
    return file.suffix.lower() in (".safetensors", ".gguf") and file.is_file()


def _in_memory(name: str, layer: Any, value: Any) -> _Part:
    if isinstance(layer, bool) or not isinstance(layer, Integral):
        problem = f"the steering vector {name} has a direction of the layer {quoted(layer)}"
        raise ModelError(problem, "give the numbers of decoder layers, counted from 0", name)
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        problem = f"direction {layer} of the steering vector {name} is no tensor"
        raise ModelError(f"{problem}: {first_line(error)}", _CURE, name) from error
    return f"{_PREFIX}{layer}", tuple(tensor.shape), lambda: tensor.detach().clone()


def _of_safetensors(path: str) -> list[_Part]:
    file: Any = safe_open(path, "pt")
    names = sorted(file.keys())
    return [
        (key, tuple(file.get_slice(key).get_shape()), partial(file.get_tensor, key))
        for key in names
    ]


def _of_gguf(name: str, path: str) -> list[_Part]:
    _check_package(name, path)
    import gguf

    def read(item: Any) -> Tensor:
        return torch.from_numpy(gguf.quants.dequantize(item.data, item.tensor_type).copy())

    check_header(path)
    items = gguf.GGUFReader(path).tensors
    return [(item.name, tuple(item.shape.tolist()[::-1]), partial(read, item)) for item in items]


def _check_package(name: str, path: str) -> None:
    if find_spec("gguf") is None:
        problem = f"{name} is the GGUF file {path}, and the package for such files is not installed"
        raise ModelError(problem, pip_install("gguf"), name)


def _directions(name: str, where: str, parts: Iterable[_Part]) -> dict[int, Tensor]:
    """The directions, checked before and after they are read."""
    parts = list(parts)
    if not any(key.startswith(_PREFIX) for key, *_ in parts):
        names = shortened(", ".join(sorted(key for key, *_ in parts)) or "nothing")
        raise ModelError(f"{where} has no tensor direction.N; it has {names}", _CURE, name)
    shapes: dict[int, tuple[int, ...]] = {}
    for key, shape, _ in parts:
        layer = _layer(name, where, key)
        if layer in shapes:
            raise ModelError(f"{where} has two directions of layer {layer}", _CURE, name)
        shapes[layer] = shape
    widths = {_width(name, where, layer, shape): layer for layer, shape in shapes.items()}
    if len(widths) > 1:
        (width, layer), (other, wrong) = list(widths.items())[:2]
        problem = f"{where} has directions of different widths: {width} at layer {layer}"
        cure = "all layers of a model are as wide"
        raise ModelError(f"{problem}, {other} at layer {wrong}", cure, name)
    if (numbers := len(shapes) * next(iter(widths))) > NUMBERS:
        problem = f"{where} has {numbers:,} numbers, and may have {NUMBERS:,}"
        raise ModelError(problem, _CURE, name)
    read = {_layer(name, where, key): get() for key, _, get in parts}
    return {layer: _checked(name, where, layer, read[layer]) for layer in sorted(read)}


def _layer(name: str, where: str, key: str) -> int:
    """The layer that a tensor is of."""
    number = key.removeprefix(_PREFIX)
    if key == number:
        problem = f"{where} holds {shortened(key)} beside its directions"
        raise ModelError(problem, "write the directions alone into a file", name)
    if not _NUMBER.fullmatch(number):
        problem = f"{where} has a direction of {shortened(quoted(number))}, which numbers no layer"
        raise ModelError(problem, "number decoder layers from 0: direction.0", name)
    if int(number) >= LAYERS:
        problem = f"{where} has a direction of layer {number}, and models have at most {LAYERS}"
        raise ModelError(problem, "number decoder layers from 0: direction.0", name)
    return int(number)


def _width(name: str, where: str, layer: int, shape: tuple[int, ...]) -> int:
    numbers = math.prod(shape)
    if not shape or numbers != shape[-1] or not numbers:
        problem = f"{where} has a direction of layer {layer} with the shape {quoted(shape)}"
        raise ModelError(problem, "a direction is one vector: (hidden,)", name)
    return numbers


def _checked(name: str, where: str, layer: int, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        problem = f"{where} has a direction of layer {layer} in {kind}"
        raise ModelError(problem, "directions are floating-point numbers", name)
    direction = tensor.to("cpu", torch.float32).flatten().contiguous()
    if not direction.isfinite().all():
        problem = f"{where} has a direction of layer {layer} with numbers that are not finite"
        raise ModelError(problem, "measure it again; float16 ends at 65504", name)
    return direction


def _write_gguf(path: Path, tensors: Mapping[str, Tensor], texts: dict[str, str]) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", texts.pop("model_hint", ""))
    writer.add_int32(f"{ARCHITECTURE}.layer_count", len(tensors))
    for key, text in texts.items():
        writer.add_string(f"descant.{key}", text)
    for key, tensor in tensors.items():
        writer.add_tensor(key, with_checked_writes(tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
