"""Prompts into the rows of a lane, as a batch has them read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from descant.models.combinations import BARE, Combination


def admitted(
    lane: Any, prompts: Sequence[Sequence[int]], combinations: Sequence[Combination] = ()
) -> list[int]:
    """The numbers of the prompts' rows, once they are read; what each adds, or nothing."""
    reading = lane.admit(prompts, combinations or [BARE] * len(prompts))
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return list(end.value())
