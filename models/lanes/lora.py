"""LoRA adapters as rows: every adapter of one base in the same forward.

The adapters of a module are stacked side by side, ``A`` as (adapters x rank, in) and ``B`` as
(out, adapters x rank); a row's mask keeps the columns of its own adapter. Two matrix products, no
loop over adapters, no gathered weights. (Hu et al. 2021, eq. 3; rsLoRA: Kalajdzievski 2023.)
"""

from __future__ import annotations

import json
import math
import os
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint.hub import hub_answer
from ..errors import ModelError, first_line
from .footprint import compute_dtype, execution_device

_PREFIX = "base_model.model."


class Adapters:
    """The adapters on one model. Without any it costs nothing, and the model is never changed."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._loaded: list[tuple[str, dict[str, tuple[Tensor, Tensor]]]] = []
        self._numbers: dict[tuple[str, str], int] = {}  # by name and folder
        self._stacked: dict[str, tuple[Tensor, Tensor]] = {}
        self._hooks: list[Any] = []
        weakref.finalize(self, _remove, self._hooks)
        self._owner, self._dtype = torch.empty(0), torch.float32
        self._mask: Tensor | None = None

    def add(self, name: str, folder: str | Path) -> int:
        """Load a LoRA adapter as peft stores it, unless it is there; its number, from 1.

        Raises:
            ModelError: not a plain LoRA, or it does not fit the model; names the first module.
        """
        asked = (name, str(folder))
        if asked not in self._numbers:
            self._loaded.append((name, _read(name, Path(folder), self._model)))
            self._numbers[asked] = len(self._loaded)
            self._stack()
        return self._numbers[asked]

    @property
    def nbytes(self) -> int:
        """Bytes of the stacked weights."""
        return sum(a.nbytes + b.nbytes for a, b in self._stacked.values())

    def close(self) -> None:
        """Leave the model as it was, for others that use it."""
        _remove(self._hooks)
        self._loaded, self._stacked, self._numbers = [], {}, {}

    @contextmanager
    def chosen(self, numbers: Tensor | None) -> Iterator[None]:
        """During this context, rows go through their adapters: ``(rows,)`` numbers, or none."""
        if numbers is not None and self._loaded:
            self._mask = (numbers[:, None] == self._owner)[:, None].to(self._dtype)
        try:
            yield
        finally:
            self._mask = None

    def _stack(self) -> None:
        _remove(self._hooks)
        rank = max(a.shape[0] for _, pairs in self._loaded for a, _ in pairs.values())
        modules, self._dtype = dict(self._model.named_modules()), compute_dtype(self._model)
        targets = sorted({target for _, pairs in self._loaded for target in pairs})
        self._stacked = {}
        for target in targets:
            sizes = next(pairs[target] for _, pairs in self._loaded if target in pairs)
            a = torch.zeros(len(self._loaded), rank, sizes[0].shape[1])
            b = torch.zeros(len(self._loaded), rank, sizes[1].shape[0])
            for number, (_, pairs) in enumerate(self._loaded):
                if target in pairs:
                    one, two = pairs[target]
                    a[number, : one.shape[0]] = one
                    b[number, : one.shape[0]] = two.T
            like = torch.empty(0, device=execution_device(modules[target]), dtype=self._dtype)
            stacked = (a.flatten(0, 1).to(like), b.flatten(0, 1).T.contiguous().to(like))
            self._stacked[target] = stacked
            self._hooks.append(modules[target].register_forward_hook(self._hook(*stacked)))
        numbers = torch.arange(1, len(self._loaded) + 1).repeat_interleave(rank)
        self._owner = numbers.to(execution_device(self._model.get_input_embeddings()))  # type: ignore[operator]

    def _hook(self, a: Tensor, b: Tensor) -> Any:
        owner = weakref.ref(self)

        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            mine = owner()  # a decoder that is gone leaves nothing on a model that stays
            mask = None if mine is None else mine._mask
            if mask is None:
                return None
            # Where a base spans devices, or adds up in another type, its layers say so themselves.
            low = functional.linear(args[0].to(a), a)
            # By row again: OPT's feed-forward layers see rows and places as one dimension.
            low.view(mask.shape[0], -1, low.shape[-1]).mul_(mask.to(a))
            if (output.dtype, output.device) != (b.dtype, b.device):
                return output + functional.linear(low, b).to(output)
            flat = output.reshape(-1, output.shape[-1])
            return flat.addmm_(low.view(-1, low.shape[-1]), b.T).view_as(output)

        return add


def _remove(hooks: list[Any]) -> None:
    """Take hooks off the modules they are on."""
    for hook in hooks:
        hook.remove()
    hooks.clear()


def adapter_folder(source: str | None, revision: str | None = None) -> str:
    """A folder as it is; a hub id, from the cache or the hub, as transformers finds files."""
    assert source is not None
    if os.path.isdir(source) or source.startswith((".", "/", "~")):
        return source
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(source, "adapter_config.json", revision=revision or "main")
        cached_file(source, "adapter_model.safetensors", revision=revision or "main")
    except OSError as error:
        what, cure = hub_answer(error, source, revision) or (
            f"{source} cannot be found: {first_line(error)}",
            "give a folder that peft's save_pretrained wrote, or a hub id",
        )
        raise ModelError(f"the adapter {what}", cure) from error
    return os.path.dirname(str(found))


def _read(name: str, folder: Path, model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name to ``(A, B)`` with the scaling in B."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config_file, weights_file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ModelError(
                f"the adapter {name} has no {file.name} in {folder}",
                "an adapter is a folder that peft's save_pretrained wrote, as safetensors",
                name,
            )
    try:
        config = json.loads(config_file.read_text())
        weights = load_file(weights_file)
    except (ValueError, SafetensorError) as error:
        problem = f"the adapter {name} in {folder} cannot be read: {error}"
        raise ModelError(problem, "save it again with peft's save_pretrained", name) from error
    _refuse(name, config)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(weights.items()):
        target, _, kind = key.removeprefix(_PREFIX).partition(".lora_")
        if kind not in ("A.weight", "B.weight"):
            raise ModelError(
                f"the adapter {name} holds {key}, and only the A and B of LoRA are read",
                "bias, modules_to_save, embeddings and DoRA are not part of a row",
                name,
            )
        found.setdefault(target, {})[kind[0]] = tensor.float()
    modules = dict(model.named_modules())
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for target in (*sorted(found.keys() - modules), *(one for one in modules if one in found)):
        a, b = _both(name, target, found[target])
        _fit(name, target, modules, a, b)
        pairs[target] = (a, b * _scaling(config, target, a.shape[0]))
    return pairs


def _both(name: str, target: str, halves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A and B of one module, of one rank."""
    if missing := {"A", "B"} - set(halves):
        raise ModelError(
            f"the adapter {name} has no lora_{missing.pop()} for {target}",
            "save it again with peft's save_pretrained",
            name,
        )
    a, b = halves["A"], halves["B"]
    if a.shape[0] != b.shape[1]:
        raise ModelError(
            f"the adapter {name} is damaged: for {target}, A has rank {a.shape[0]} and B has rank "
            f"{b.shape[1]}",
            "save it again with peft's save_pretrained",
            name,
        )
    return a, b


def _refuse(name: str, config: dict[str, Any]) -> None:
    wrong = [
        (config.get("peft_type") != "LORA", f"is {config.get('peft_type')}, not LoRA"),
        (config.get("bias", "none") != "none", f"has bias={config.get('bias')!r}"),
        (bool(config.get("modules_to_save")), "has modules_to_save"),
        (bool(config.get("use_dora")), "uses DoRA"),
    ]
    for is_wrong, what in wrong:
        if is_wrong:
            raise ModelError(
                f"the adapter {name} {what}, which rows of a shared base cannot have",
                "merge it into a copy of its base and declare that as a model",
                name,
                "adapters",
            )


def _scaling(config: dict[str, Any], target: str, rank: int) -> float:
    alpha = config.get("lora_alpha") or rank
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", target):
            alpha = value  # as peft reads them: the first that matches
            break
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)


def _fit(name: str, target: str, modules: dict[str, nn.Module], a: Tensor, b: Tensor) -> None:
    module = modules.get(target)
    if module is None:
        raise ModelError(
            f"the adapter {name} has weights for {target}, which its base does not have",
            "give the base that it was trained on",
            name,
            "adapters",
        )
    sizes = _sizes(module)
    if sizes is None:
        problem = f"the adapter {name} is on {target}, which is not a linear layer"
        raise ModelError(problem, "", name)
    if sizes != (a.shape[1], b.shape[0]):
        raise ModelError(
            f"the adapter {name} does not fit its base: {target} is {sizes[0]}→{sizes[1]}, "
            f"the adapter's is {a.shape[1]}→{b.shape[0]}",
            "give the base that it was trained on",
            name,
            "adapters",
        )


def _sizes(module: Any) -> tuple[int, int] | None:
    """What a linear layer takes and gives; GPT-2's Conv1D keeps its weight as (in, out)."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)
    return (int(module.nx), int(module.nf)) if hasattr(module, "nf") else None
