"""A kernel's first use on a device, where it has to give what another way gives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

import torch

_log = logging.getLogger("descant")
Result = TypeVar("Result")


class FirstUse(Generic[Result]):
    """Whether a kernel is used, by device.

    Args:
        name: what it does, for a warning.
        why_not: why it cannot be used on a device, or None.
    """

    def __init__(self, name: str, why_not: Callable[[torch.device], str | None]) -> None:
        self._name, self._why_not = name, why_not
        self._why: dict[torch.device, str | None] = {}

    def run(
        self,
        device: torch.device,
        kernel: Callable[[], Result],
        plain: Callable[[], Result],
        wrong: Callable[[Result, Result], str | None],
    ) -> Result:
        """What the kernel gives; where it is not used, what torch's operations give.

        The first time, the kernel may fail, and the device is asked about its result: this is left
        for later while a graph is recorded.

        Args:
            device: it runs on.
            kernel: runs it.
            plain: does the same by torch's operations.
            wrong: says what is wrong with the kernel's result beside the other, or None.
        """
        if device in self._why:
            return kernel() if self._why[device] is None else plain()
        expected = plain()
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return expected
        self._why[device] = self._why_not(device)
        if self._why[device] is None:
            self._why[device] = self._judge(device, kernel, expected, wrong)
        return expected

    def _judge(
        self,
        device: torch.device,
        kernel: Callable[[], Result],
        expected: Result,
        wrong: Callable[[Result, Result], str | None],
    ) -> str | None:
        """Why it is not used from now on, which is warned of; or None."""
        try:
            why = wrong(kernel(), expected)
        except Exception as error:  # compilers and drivers have exceptions of their own
            lines = str(error).strip().splitlines() or [type(error).__name__]
            why = f"its kernel fails: {lines[0]}"
        if why is not None:
            cure = "please report this with the output of `descant doctor --gpu`"
            how = "goes on with torch's operations"
            _log.warning("%s on %s %s, for %s; %s", self._name, device, how, why, cure)
        return why
