"""A CUDA graph, played: what it recorded is added to the account again with every replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .account import Step
from .device import Device

Result = TypeVar("Result")


class Forbidden(RuntimeError):
    """Something that CUDA does not allow while a graph is recorded."""


class PlayedGraph:
    """Stands for ``torch.cuda.CUDAGraph`` and what records it.

    Recording calls the work, whose launches happen at the replays; and whatever makes the host wait
    for the device, or copies from memory that may have changed by then, is an error, as on a GPU.
    """

    def __init__(self, device: Device) -> None:
        self._device, self.account = device, Step()
        self.replays = 0

    def record(self, work: Callable[[], Result]) -> Result:
        """Call the work, and keep what it would have done."""
        device = self._device
        if device.memory.recording:
            raise Forbidden("a graph is being recorded, and here begins another")
        device.memory.recording = True
        try:
            with device.into(Step()) as self.account:
                result = work()
        finally:
            device.memory.recording = False
        found = self.account
        if wrong := [*found.h2d, *found.d2h, *found.waits, *found.stalls]:
            raise Forbidden(f"operation not permitted when stream is capturing: {wrong[0]}")
        device.step.recorded += 1
        return result

    def replay(self) -> None:
        """Do what was recorded."""
        step: Any = self._device.step
        if self._device.memory.recording:
            raise Forbidden("a graph is being recorded, and another is replayed")
        step.add(self.account)
        step.replayed += 1
        self.replays += 1
