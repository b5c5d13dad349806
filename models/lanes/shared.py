"""One lane with several parties: each sees its own rows, and one forward reads them all.

A party is what one formula's batch holds. It numbers its rows from 0, as if it were alone; where
they are in the lane is kept here. Who asks first has everybody's rows read, and the others find
what was said of theirs.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..cache.rows import Join
from .footprint import Footprint
from .protocols import LanguageLane


class SharedLane:
    """A language lane, and whose rows are whose.

    Args:
        lane: nobody else may use it.

    Attributes:
        owners: per row of the lane, the party that holds it.
    """

    def __init__(self, lane: LanguageLane) -> None:
        self.lane = lane
        self.owners: list[LaneView] = []
        self.asked: dict[
            LaneView, tuple[int, int]
        ] = {}  # rows and tokens that each may come to hold
        self.arriving = False  # whether prompts are being read, whose rows are not in use yet
        self._said: Tensor | None = None
        self._heard: set[LaneView] = set()  # whose rows have said what comes next, and not gone on

    def view(self) -> LaneView:
        """Another party, without rows."""
        return LaneView(self)

    def reserve(self, view: LaneView, rows: int, capacity: int) -> None:
        """Room for the rows that a party may come to hold, while the others hold none."""
        self.asked.pop(view, None)
        if rows:
            self.asked[view] = rows, capacity
        most = max((many for many, _ in self.asked.values()), default=0)
        longest = max((tokens for _, tokens in self.asked.values()), default=0)
        held = self.lane.rows
        if not self.owners and not self.arriving:
            self.lane.reserve(most, longest)
        elif most > len(held.texts) or longest > held.capacity:
            self.lane.grow(max(longest, held.capacity), most)
        self.moved()

    def logits(self, view: LaneView) -> Tensor:
        """``(rows, V)`` logits of a party's rows; everybody's are read, unless they have been."""
        if view not in self._heard or self._said is None:
            self._said = self.lane.logits()
            self._heard = set(self.owners)
        return self._said if view.everything else self._said.index_select(0, view.index)

    def invalidate(self, view: LaneView) -> None:
        """What was said of a party's rows holds no more."""
        self._heard.discard(view)

    def moved(self) -> None:
        """Rows have other numbers now."""
        self._said = None
        self._heard.clear()

    def release(self, row: int) -> None:
        """Give a row of the lane up; the last one takes its place."""
        last = self.lane.release(row)
        owner = self.owners.pop()
        if last != row:
            self.owners[row] = owner
            owner.renumber(last, row)
        self.moved()


class LaneView:
    """The rows that one formula's batch holds in a shared lane; a lane to that batch.

    Attributes:
        index: ``(rows,)`` int64, where its rows are in the lane.
        everything: whether its rows are all of the lane's, in their order.
    """

    def __init__(self, shared: SharedLane) -> None:
        self.shared, self.lane, self.device = shared, shared.lane, shared.lane.device
        self.mine: list[int] = []
        self.index = torch.empty(0, dtype=torch.long, device=self.device)
        self.everything = False
        self._at: tuple[list[int], int] = ([], 0)

    @property
    def rows(self) -> ViewRows:
        """Its rows in use."""
        return ViewRows(self)

    @property
    def adapters(self) -> Any:
        """The adapters on the lane's weights, where it can have any."""
        return self.lane.adapters  # type: ignore[attr-defined]

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room for so many rows of so many tokens, empty."""
        while self.mine:
            self.release(0)
        self.shared.reserve(self, rows, capacity)

    def grow(self, capacity: int, rows: int = 0) -> None:
        """Make room for longer texts, and keep those there are."""
        self.lane.grow(max(capacity, self.lane.rows.capacity), rows)

    def admit(self, prompts: Sequence[Any], adapters: Sequence[int]) -> Generator[int, None, Join]:
        """Read prompts, as a lane does. One party at a time."""
        self.shared.arriving = True
        join = yield from self.lane.admit(prompts, adapters)

        def joined() -> Sequence[int]:
            self.shared.arriving = False
            self.shared.moved()
            rows = join()
            first = len(self.mine)
            self.mine += rows
            self.shared.owners += [self] * len(rows)
            return range(first, len(self.mine))

        return joined

    def release(self, row: int) -> int:
        """Give a row up; the last takes its place."""
        there, last = self.mine[row], len(self.mine) - 1
        self.mine[row] = self.mine[last]
        self.mine.pop()
        self.shared.release(there)
        return last

    def renumber(self, before: int, after: int) -> None:
        """A row of the lane has another number."""
        self.mine[self.mine.index(before)] = after

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make each target row, text and cache, what its source was."""
        self.lane.copy_rows([self.mine[i] for i in sources], [self.mine[i] for i in targets])
        self.shared.invalidate(self)

    def logits(self) -> Tensor:
        """``(rows, V)`` logits of what comes next."""
        self._settle()
        return self.shared.logits(self)

    def feed(self, tokens: Tensor) -> None:
        """``(rows,)`` tokens to be read at the next step."""
        self._settle()
        self.lane.rows.feed_some(tokens, self.index, self.mine)
        self.shared.invalidate(self)

    def _settle(self) -> None:
        """Have on the device where the rows are."""
        now = (self.mine, len(self.shared.owners))
        if self._at != now:
            self.index = torch.tensor(self.mine, device=self.device)
            self.everything = self.mine == list(range(now[1]))
            self._at = ([*self.mine], now[1])

    def footprint(self) -> Footprint:
        """What the whole lane costs, for all its views."""
        return self.lane.footprint()

    steady = False  # who else has rows here changes what a step does

    def shape(self, ahead: int) -> Hashable:
        """What the host decides for a forward."""
        return self.lane.shape(ahead)


class ViewRows:
    """A party's rows, by its own numbers; what a batch asks of ``Rows``."""

    def __init__(self, view: LaneView) -> None:
        self._view, self._rows, self._mine = view, view.lane.rows, view.mine

    @property
    def count(self) -> int:
        """How many rows are in use."""
        return len(self._mine)

    @property
    def capacity(self) -> int:
        """Tokens that each can hold."""
        return self._rows.capacity

    @property
    def total(self) -> int:
        """Tokens of all texts together."""
        return sum(self.counts()[1])

    @property
    def backlog(self) -> int:
        """The most tokens that any row must still read before its next step."""
        lengths, ends = self.counts()
        pairs = zip(ends, lengths, strict=True)
        return max((end - length for end, length in pairs), default=0) - self._rows.waits

    def text(self, row: int) -> Tensor:
        """The tokens of a row's text."""
        return self._rows.text(self._mine[row])

    def counts(self) -> tuple[list[int], list[int]]:
        """Of every row: tokens in the cache, and tokens of the text."""
        lengths, ends = self._rows.counts()
        return [lengths[row] for row in self._mine], [ends[row] for row in self._mine]

    def rewrite(self, texts: Mapping[int, tuple[int, Sequence[int]]]) -> None:
        """Make a row's text its own first tokens and then others, which wait to be read."""
        self._rows.rewrite({self._mine[row]: text for row, text in texts.items()})
        self._view.shared.invalidate(self._view)
