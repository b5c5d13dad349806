"""The rows of a view of a lane that several batches share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..cache.rows import Rows
from ..recordings import bucket


class RowView(Protocol):
    """A view, as far as its rows go."""

    @property
    def lane(self) -> Any:
        """The lane that is shared."""

    @property
    def shared(self) -> Any:
        """Which views have logits of their texts."""

    @property
    def lane_rows(self) -> list[int]:
        """The number in the lane of each of its rows."""

    @property
    def most(self) -> int:
        """Rows that it may come to hold."""


class ViewRows:
    """A view's rows, by its own numbers; what a batch needs of ``Rows``."""

    def __init__(self, view: RowView) -> None:
        self._view, self._lane_rows = view, view.lane_rows
        self._rows: Rows = view.lane.rows

    @property
    def count(self) -> int:
        return len(self._lane_rows)

    @property
    def width(self) -> int:
        """Rows with idle ones, as ``Rows.width``; of those that the view may come to hold."""
        return bucket(self.count, self._view.most) if self._rows.bucketed else self.count

    @property
    def bucketed(self) -> bool:
        return self._rows.bucketed

    @property
    def changing(self) -> list[Tensor]:
        return self._rows.changing

    @property
    def capacity(self) -> int:
        return self._rows.capacity

    @property
    def total(self) -> int:
        return sum(self.counts()[1])

    @property
    def backlog(self) -> int:
        lengths, ends = self.counts()
        pairs = zip(ends, lengths, strict=True)
        return max((end - length for end, length in pairs), default=0) - self._rows.pending

    def text(self, row: int) -> Tensor:
        return self._rows.text(self._lane_rows[row])

    def counts(self) -> tuple[list[int], list[int]]:
        lengths, ends = self._rows.counts()
        rows = self._lane_rows
        return [lengths[row] for row in rows], [ends[row] for row in rows]

    def mark(self) -> tuple[list[int], list[int], bool]:
        return *self.counts(), self._view.shared.is_valid(self._view)

    def rewind(self, mark: tuple[list[int], list[int], bool]) -> None:
        before = self._rows.mark()
        for row, length, end in zip(self._lane_rows, *mark[:2], strict=True):
            before[0][row], before[1][row] = length, end
        self._rows.rewind(before)
        if mark[2]:
            self._view.shared.validate(self._view)

    def progress(self, mark: tuple[list[int], list[int], bool]) -> int:
        return self.counts()[1][0] - mark[1][0] if self._lane_rows else 0

    def advance(self, progress: int) -> None:
        for _ in range(progress):
            self._rows.fed(self._lane_rows)
        self._view.shared.invalidate(self._view)

    def rewrite(self, texts: Mapping[int, tuple[int, Sequence[int]]]) -> None:
        self._rows.rewrite({self._lane_rows[row]: text for row, text in texts.items()})
        self._view.shared.invalidate(self._view)
