"""What the host writes and a device reads: one copy brings all that has changed.

A batch's numbers and a lane's lengths change whenever a row joins or leaves. Copied one by one they
would be a dozen copies, each of which waits. Here they are packed into one piece of pinned memory,
copied once, and handed out by one launch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import Tensor

Changes: TypeAlias = list[tuple[Tensor, Tensor]]  # memory on a device, and on the host what it gets
ALIGNED = 16  # bytes: every dtype may begin there


class Mirror:
    """Tensors on a device and the same on the host, each in one piece of memory.

    On a CPU both are one memory, and nothing is ever copied.

    Args:
        device: where they are read.
        fields: per name, a shape and a dtype; all begin as zeros.

    Attributes:
        host: where the host writes them, by name, and ``device``, where a step reads them.
        stale: whether the host has written since the last copy; whoever writes says so.
    """

    def __init__(self, device: torch.device, **fields: tuple[Sequence[int], torch.dtype]) -> None:
        self.stale = False
        sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in fields.values()]
        starts, end = list[int](), 0
        for size in sizes:
            starts.append(end)
            end += -(-size // ALIGNED) * ALIGNED
        self._host = torch.zeros(end, dtype=torch.uint8)
        on_host = Mirror.on_host(device)
        self._device = self._host if on_host else torch.zeros(end, dtype=torch.uint8, device=device)

        def views(memory: Tensor) -> Any:
            parts = zip(fields.items(), starts, sizes, strict=True)
            return SimpleNamespace(**{
                name: memory[start : start + size].view(dtype).view(*shape)
                for (name, (shape, dtype)), start, size in parts
            })  # fmt: skip

        self.host: Any = views(self._host)
        self.device: Any = self.host if on_host else views(self._device)

    @staticmethod
    def on_host(device: torch.device) -> bool:
        """Whether a device reads the host's own memory."""
        return device.type == "cpu"

    def changes(self) -> Changes:
        """What is to be copied now, which is taken for done."""
        stale, self.stale = self.stale, False
        return [(self._device, self._host)] if stale and self._device is not self._host else []


def fill(buffer: Tensor, values: Sequence[Any]) -> None:
    """Write values where a buffer on the host begins."""
    if values:
        buffer[: len(values)] = torch.tensor(values, dtype=buffer.dtype)


def upload(changes: Changes) -> None:
    """Copy from the host: a copy per device, and a launch there that hands it out.

    The host may write its memory again at once.

    Args:
        changes: pairs of tensors of one shape and dtype; those on a device are contiguous.
    """
    on_devices: dict[torch.device, Changes] = {}
    for target, source in changes:
        if target.device.type == "cpu":
            target.copy_(source)
        elif source.numel():
            on_devices.setdefault(target.device, []).append((target, source))
    for device, pairs in on_devices.items():
        sources = _sent(device, [source for _, source in pairs])
        torch._foreach_copy_([_as_bytes(target) for target, _ in pairs], sources)


def staged(device: torch.device, *tensors: Tensor) -> tuple[list[Tensor], Changes]:
    """Room on a device for tensors of the host, and what is to be copied there.

    On a CPU they themselves, and nothing.
    """
    if device.type == "cpu":
        return [*tensors], []
    room = [torch.empty(tensor.shape, dtype=tensor.dtype, device=device) for tensor in tensors]
    return room, [*zip(room, tensors, strict=True)]


def _sent(device: torch.device, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The bytes of each on a device, packed for the way there."""
    parts = [_as_bytes(tensor.contiguous()) for tensor in tensors]
    rooms = [-(-len(part) // ALIGNED) * ALIGNED for part in parts]
    packed = torch.empty(sum(rooms), dtype=torch.uint8, pin_memory=True)
    for room, part in zip(torch.split(packed, rooms), parts, strict=True):
        room[: len(part)] = part
    staged = torch.split(packed.to(device, non_blocking=True), rooms)
    return [room[: len(part)] for room, part in zip(staged, parts, strict=True)]


def _as_bytes(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)
