"""Which rows of a forward add which adapter, as the host knows it: work is done for these alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

Weights: TypeAlias = tuple[tuple[int, float], ...]  # of a row: pairs of a column and its number


class Share(NamedTuple):
    """An adapter, and the rows that have it.

    Attributes:
        column: of the adapter in the rows' numbers.
        rows: every row that has it; where these are no regular slice, others between them too.
        number: what all of these rows multiply it by; None where they differ.
    """

    column: int
    rows: slice
    number: float | None


def shares(rows: Sequence[Weights]) -> list[Share]:
    """Every adapter that some row has, by column."""
    found = defaultdict[int, dict[int, float]](dict)
    for row, weights in enumerate(rows):
        for column, number in weights:
            found[column][row] = number
    return [_share(column, found[column]) for column in sorted(found)]


def _share(column: int, numbers: dict[int, float]) -> Share:
    rows, different = [*numbers], set(numbers.values())
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    regular = range(rows[0], rows[-1] + 1, step)
    if rows != [*regular]:
        return Share(column, slice(rows[0], rows[-1] + 1, 1), None)
    number = different.pop() if len(different) == 1 else None
    return Share(column, slice(rows[0], rows[-1] + 1, step), number)
