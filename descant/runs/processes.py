"""The processes of one sweep: which this is, and waiting for the others.

They meet through accelerate where ``accelerate launch`` or ``torchrun`` has started several, and
share a folder. Nothing but the meeting goes between them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(days=7)  # the shares are not of one length


@dataclass(frozen=True)
class Share:
    """One process of a sweep."""

    rank: int = 0
    count: int = 1
    device: str | None = None
    _state: Any = None

    @property
    def first(self) -> bool:
        """Whether it is the one that speaks and gathers."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self._state is not None:
            self._state.wait_for_everyone()


def share(device: str | None = None) -> Share:
    """The process that this is; each has a device of its own, unless ``device`` is the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Share()
    import torch
    from accelerate import PartialState

    on_cpu = not torch.cuda.is_available() or str(device).startswith("cpu")
    state = PartialState(cpu=on_cpu, timeout=PATIENCE)
    return Share(state.process_index, state.num_processes, str(state.device), state)
