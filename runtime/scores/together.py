"""Scores of several formulas side by side, so that what they share is asked once for all."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeAlias

from torch import Tensor

Scoring: TypeAlias = Generator[None, None, Tensor]  # stops where it waits for what others ask


def finished(parts: Sequence[Scoring]) -> list[Tensor]:
    """What each gives in the end: none goes on before all have asked for what they need next."""
    results: dict[int, Tensor] = {}
    while len(results) < len(parts):
        for number, part in enumerate(parts):
            if number not in results:
                try:
                    next(part)
                except StopIteration as end:
                    results[number] = end.value
    return [results[number] for number in range(len(parts))]
