"""What is held on the fake devices, and the most that ever was."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

WEIGHTS, CACHES, OTHER = "weights", "caches", "other"


class Memory:
    """Every storage on a fake GPU, from when it is made until nobody holds it.

    CUDA graphs have a pool of memory, which all of them share and which stays theirs: what is made
    while one is recorded counts there, at its most, for ever.

    Attributes:
        recording: whether what is made now is in the pool.
    """

    def __init__(self) -> None:
        self.recording = False
        self._kinds: dict[int, str] = {}  # by the address of the storage
        self._held: dict[torch.device, int] = defaultdict(int)
        self._pooled: dict[torch.device, int] = defaultdict(int)  # held now
        self._pools: dict[torch.device, int] = defaultdict(int)  # and at its most
        self._peaks: dict[torch.device, int] = defaultdict(int)
        self._most = 0  # on all of them, at one moment

    def made(self, tensor: Tensor) -> None:
        """A tensor has come out of an operation; its storage may be known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if tensor.device.type != "cuda" or key in self._kinds:
            return
        self._kinds[key] = OTHER
        held = self._pooled if self.recording else self._held
        device, size = tensor.device, storage.nbytes()
        held[device] += size
        weakref.finalize(storage, self._gone, key, held, device, size)
        self._pools[device] = max(self._pools[device], self._pooled[device])
        self._peaks[device] = max(self._peaks[device], self.held(device))
        self._most = max(self._most, sum(self._held.values()) + sum(self._pools.values()))

    def label(self, held: Iterable[Tensor], kind: str) -> None:
        """Say what some storages are for."""
        for tensor in held:
            if (key := tensor.untyped_storage()._cdata) in self._kinds:
                self._kinds[key] = kind

    def kind_of(self, tensor: Tensor) -> str:
        """What a tensor's storage is for."""
        return self._kinds.get(tensor.untyped_storage()._cdata, OTHER)

    def held(self, device: torch.device) -> int:
        """Bytes that a device holds now, the pool of its graphs among them."""
        return self._held[device] + self._pools[device]

    def devices(self) -> list[torch.device]:
        return sorted(self._peaks, key=str)

    def peak(self, device: torch.device | None = None) -> int:
        """The most bytes that a device held; left out, that all held at one moment."""
        return self._most if device is None else self._peaks[device]

    def _gone(self, key: int, held: dict[torch.device, int], device: torch.device, n: int) -> None:
        self._kinds.pop(key, None)
        held[device] -= n
