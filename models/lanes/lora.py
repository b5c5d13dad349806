"""LoRA adapters as rows: every adapter of one base in the same forward.

The adapters of a module are stacked, ``A`` as (adapters x rank, in) and ``B`` as
(out, adapters x rank); a row's mask keeps the columns of its own adapter. Two matrix products, no
loop over adapters, no gathered weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint.adapter import Factors, read_adapter
from ..errors import ModelError
from ..footprint import compute_dtype, execution_device

_TRAINED_ON = "give the base that it was trained on"


class Adapters:
    """The adapters on one model, which stays as it is: hooks add what adapters add."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._loaded: list[Factors] = []
        self._numbers: dict[tuple[str, str], int] = {}  # by name and folder
        self._stacked: dict[str, tuple[Tensor, Tensor]] = {}
        self._hooks: list[Any] = []
        weakref.finalize(self, _remove, self._hooks)
        self._owner, self._dtype = torch.empty(0), torch.float32
        self._mask: Tensor | None = None

    def add(self, name: str, folder: str | Path) -> int:
        """The number of a LoRA adapter, from 1; read from peft's folder where it is not loaded.

        Raises:
            ModelError: not a plain LoRA, or it does not fit the model; names the first module.
        """
        key = (name, str(folder))
        if key not in self._numbers:
            factors = read_adapter(name, Path(folder)).factors
            _check_fit(name, self._model, factors)
            self._loaded.append(factors)
            self._numbers[key] = len(self._loaded)
            self._stack()
        return self._numbers[key]

    @property
    def nbytes(self) -> int:
        """Bytes of the stacked weights."""
        return sum(a.nbytes + b.nbytes for a, b in self._stacked.values())

    def close(self) -> None:
        """Remove the hooks from the model, for others that use it."""
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
        rank = max(a.shape[0] for factors in self._loaded for a, _ in factors.values())
        modules, self._dtype = dict(self._model.named_modules()), compute_dtype(self._model)
        self._stacked = {}
        for path in sorted({path for factors in self._loaded for path in factors}):
            like = torch.empty(0, device=execution_device(modules[path]), dtype=self._dtype)
            pair = _stacked([factors.get(path) for factors in self._loaded], rank, like)
            self._stacked[path] = pair
            self._hooks.append(modules[path].register_forward_hook(self._hook(*pair)))
        numbers = torch.arange(1, len(self._loaded) + 1).repeat_interleave(rank)
        self._owner = numbers.to(execution_device(self._model.get_input_embeddings()))  # type: ignore[operator]

    def _hook(self, a: Tensor, b: Tensor) -> Any:
        adapters_ref = weakref.ref(self)  # the model outlives the decoder

        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            adapters = adapters_ref()
            mask = None if adapters is None else adapters._mask
            if mask is None:
                return None
            # The layer's own device and dtype: a base may span devices or mix types.
            low = functional.linear(args[0].to(a), a)
            # By row again: OPT's feed-forward layers flatten rows and positions.
            low.view(mask.shape[0], -1, low.shape[-1]).mul_(mask.to(a))
            if (output.dtype, output.device) != (b.dtype, b.device):
                return output + functional.linear(low, b).to(output)
            flat = output.reshape(-1, output.shape[-1])
            return flat.addmm_(low.view(-1, low.shape[-1]), b.T).view_as(output)

        return add


def _stacked(
    pairs: Sequence[tuple[Tensor, Tensor] | None], rank: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """``(adapters x rank, in)`` and ``(out, adapters x rank)``; zeros for an adapter without."""
    a, b = next(pair for pair in pairs if pair is not None)
    stacked_a = torch.zeros(len(pairs), rank, a.shape[1])
    stacked_b = torch.zeros(len(pairs), rank, b.shape[0])
    for number, pair in enumerate(pairs):
        if pair is not None:
            stacked_a[number, : len(pair[0])] = pair[0]
            stacked_b[number, : len(pair[0])] = pair[1].T
    return stacked_a.flatten(0, 1).to(like), stacked_b.flatten(0, 1).T.contiguous().to(like)


def _remove(hooks: list[Any]) -> None:
    """Take hooks off the modules they are on."""
    for hook in hooks:
        hook.remove()
    hooks.clear()


def _check_fit(name: str, model: nn.Module, factors: Factors) -> None:
    """Refuse an adapter of another base; names the first module that does not fit."""
    modules = dict(model.named_modules())
    order = [*sorted(factors.keys() - modules), *(path for path in modules if path in factors)]
    for path in order:
        if path not in modules:
            problem = f"the adapter {name} has weights for {path}, which its base does not have"
            raise ModelError(problem, _TRAINED_ON, name, "adapters")
        sizes, (a, b) = _sizes(modules[path]), factors[path]
        if sizes is None:
            problem = f"the adapter {name} is on {path}, which is not a linear layer"
            raise ModelError(problem, "", name)
        if sizes != (a.shape[1], b.shape[0]):
            shapes = f"{sizes[0]}→{sizes[1]}, the adapter's is {a.shape[1]}→{b.shape[0]}"
            problem = f"the adapter {name} does not fit its base: {path} is {shapes}"
            raise ModelError(problem, _TRAINED_ON, name, "adapters")


def _sizes(module: Any) -> tuple[int, int] | None:
    """Input and output size of a linear layer; GPT-2's Conv1D keeps its weight as (in, out)."""
    if hasattr(module, "in_features"):
        return int(module.in_features), int(module.out_features)
    return (int(module.nx), int(module.nf)) if hasattr(module, "nf") else None
