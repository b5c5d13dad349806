"""LoRA adapters as rows: every adapter of one base in the same forward."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.lora import read_adapter
from ..adapters.placed import PlacedLayer, placed
from ..adapters.row_hooks import ForwardRows, Stacked, hook, stacked
from ..footprint import Held, compute_dtype, execution_device


class Adapters:
    """The adapters on one model, which stays as it is: hooks add what adapters add.

    Attributes:
        version: another after each change of what is loaded.
        closed: how often all were taken off; numbers begin again then.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self.version, self.closed = model, 0, 0
        self._loaded: list[Mapping[str, PlacedLayer]] = []
        self._numbers: dict[tuple[str, str], int] = {}  # by name and folder
        self._stacked: dict[str, Stacked] = {}
        self._hooks: list[Any] = []
        weakref.finalize(self, _remove, self._hooks)
        self._owner, self._dtype = torch.empty(0), torch.float32
        self._rows = ForwardRows()  # all that hooks hold: the model outlives the decoder

    def add(self, name: str, folder: str | Path) -> int:
        """The number of a LoRA adapter, from 1; read from peft's folder where it is not loaded.

        Raises:
            ModelError: rows cannot have it, or it does not fit the model; names the first module.
        """
        key = (name, str(folder))
        if key not in self._numbers:
            self._loaded.append(placed(name, self._model, read_adapter(name, Path(folder))))
            self._numbers[key] = len(self._loaded)
            self._stack()
        return self._numbers[key]

    @property
    def nbytes(self) -> int:
        """Bytes of the stacked weights."""
        return sum(parts.nbytes for parts in self._stacked.values())

    @property
    def memory(self) -> dict[int, Held]:
        """The same, as in ``Footprint.memory``."""
        return {id(each): Held(each.device, each.nbytes) for each in self._stacked.values()}

    def close(self) -> None:
        """Remove the hooks from the model, for others that use it."""
        _remove(self._hooks)
        self._loaded, self._stacked, self._numbers = [], {}, {}
        self.version += 1
        self.closed += 1

    @contextmanager
    def chosen(self, numbers: Tensor | None) -> Iterator[None]:
        """During this context, rows go through their adapters: ``(rows,)`` numbers, or none."""
        if numbers is not None and self._loaded:
            self._rows.numbers = numbers
            self._rows.mask = (numbers[:, None] == self._owner)[:, None].to(self._dtype)
        try:
            yield
        finally:
            self._rows.numbers = self._rows.mask = None

    def _stack(self) -> None:
        _remove(self._hooks)
        self.version += 1
        layers = [layer for adapter in self._loaded for layer in adapter.values()]
        rank = max((len(layer.a) for layer in layers if layer.a is not None), default=0)
        modules, self._dtype = dict(self._model.named_modules()), compute_dtype(self._model)
        self._stacked = {}
        for path in sorted({path for adapter in self._loaded for path in adapter}):
            like = torch.empty(0, device=execution_device(modules[path]), dtype=self._dtype)
            parts = stacked([adapter.get(path) for adapter in self._loaded], rank, like)
            self._stacked[path] = parts
            self._hooks.append(modules[path].register_forward_hook(hook(parts, self._rows)))
        numbers = torch.arange(1, len(self._loaded) + 1).repeat_interleave(rank)
        self._owner = numbers.to(execution_device(self._model.get_input_embeddings()))  # type: ignore[operator]


def _remove(hooks: list[Any]) -> None:
    """Take hooks off the modules they are on."""
    for registered in hooks:
        registered.remove()
    hooks.clear()
