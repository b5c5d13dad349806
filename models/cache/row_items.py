"""Lists that hold an item of each row, and the rows that something is done to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from torch import Tensor

Item = TypeVar("Item")


class Growing(NamedTuple):
    """Rows whose texts get a token, as the host knows, and of those fed ``(rows,)`` bool, which."""

    rows: Sequence[int]
    mask: Tensor | None = None


def swap_remove(items: list[Item], row: int) -> Item:
    """Remove a row's item from a list, whose last item moves into its place; the removed one."""
    removed, items[row] = items[row], items[-1]
    items.pop()
    return removed


def copy_items(items: list[Item], sources: Sequence[int], targets: Sequence[int]) -> None:
    """Make each target row's item what its source's was."""
    for target, item in zip(targets, [items[source] for source in sources], strict=True):
        items[target] = item
