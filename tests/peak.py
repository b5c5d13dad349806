"""What is held in memory while something runs: every storage that torch makes, until it is gone."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Counts bytes that are made inside it; ``peak`` is the most at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._live: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {self._storage(one)._cdata for one in tree_leaves((args, kwargs)) if tensor(one)}
        out = func(*args, **(kwargs or {}))
        for storage in (self._storage(one) for one in tree_leaves(out) if tensor(one)):
            if storage._cdata not in given and storage._cdata not in self._live:
                self._live[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata)
        self.peak = max(self.peak, self.now)
        return out

    @staticmethod
    def _storage(one: torch.Tensor) -> Any:
        return one.untyped_storage()

    def _gone(self, key: int) -> None:
        self.now -= self._live.pop(key, 0)


def tensor(one: Any) -> bool:
    """Whether it is a tensor that takes memory."""
    return isinstance(one, torch.Tensor) and one.device.type != "meta"
