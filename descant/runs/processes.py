"""The processes of one run: the rank of this one, and a barrier.

accelerate connects the processes that ``accelerate launch`` or ``torchrun`` starts. They share a
folder, and exchange nothing but the barrier.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

TIMEOUT = timedelta(days=7)  # the shares of the prompts take different times


@dataclass(frozen=True)
class Process:
    """One process of a run."""

    rank: int = 0
    count: int = 1
    device: str | None = None
    _state: Any = None

    @property
    def first(self) -> bool:
        """Whether it prints and gathers the lines."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all processes."""
        if self._state is not None:
            self._state.wait_for_everyone()


def world_size() -> int:
    """How many processes ``torchrun`` or ``accelerate launch`` has started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def prints() -> bool:
    """Whether this is the process that prints, of those that decode together."""
    return os.environ.get("RANK", "0") == "0"


def this_process(device: str | None = None) -> Process:
    """This process, connected to the others; each has its own device, unless it is the CPU."""
    if world_size() < 2:
        return Process()
    import torch
    from accelerate import PartialState

    on_cpu = not torch.cuda.is_available() or str(device).startswith("cpu")
    state = PartialState(cpu=on_cpu, timeout=TIMEOUT)
    return Process(state.process_index, state.num_processes, str(state.device), state)
