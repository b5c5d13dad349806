"""The masks of a step's rows: of a batch, or of the positions of its texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from ..batch.texts import starts_of
from ..constraints.masks import Masks

# Whose rows they are; how many there are, with idle ones; and what each read before its answer.
Rows: TypeAlias = "tuple[Sequence[Any], int, Callable[[], Sequence[int]]]"


class Constraining(Protocol):
    """A step, as far as its constraints go."""

    bound: Any
    proposes: bool


def masks_of(
    step: Constraining,
    batch: Any,
    texts: Callable[[], Sequence[Tensor]],
    rows: Rows | None = None,
) -> Masks | None:
    """The masks of a step's rows; None of what is only proposed, which goes without.

    Args:
        step: of the plan, and ``batch``, its slots.
        texts: per row, what it has read.
        rows: those of the step; left out, the slots.
    """
    if step.proposes:
        return None
    requests, width, starts = rows or (batch.requests, batch.width, lambda: starts_of(batch))

    def answers() -> list[list[int]]:
        pairs = zip(texts(), starts(), strict=True)
        return [text[start:].tolist() for text, start in pairs]

    return Masks(step.bound.constraints, requests, answers, width, batch.device)
