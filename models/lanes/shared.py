"""One lane shared by several batches: each has a view of its own rows, and one forward runs all.

A view is what one formula's batch holds. Its rows are numbered from 0, as if there were no others;
where they are in the lane is kept here. The first view that needs logits runs one forward for all.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..cache.live import LiveAttention
from ..cache.row_items import Growing, swap_remove
from ..cache.rows import Join
from ..combinations import Combination
from ..footprint import Footprint
from ..heads.declared import DeclaredHead
from ..heads.layer_heads import HeadColumns
from ..layers.fused_layers import FusedLayers
from ..recordings import Recordings
from ..upload import Changes, Mirror, upload
from .protocols import LanguageLane
from .view_rows import ViewRows

Reading: TypeAlias = Generator[int, None, Join]
CAPACITY_UNIT = 64  # tokens: formulas with a few more candidates than others need no new cache


class SharedLane:
    """A language lane, used through views alone, and which view each of its rows belongs to.

    Attributes:
        owners: the view of each row of the lane.
        admitting: whether prompts are being read, whose rows are not in use yet.
    """

    def __init__(self, lane: LanguageLane) -> None:
        self.lane = lane
        self.owners: list[LaneView] = []
        self.admitting = False
        self._reserved: dict[LaneView, tuple[int, int, int]] = {}  # rows, their tokens, and all
        self._logits: Tensor | None = None
        self._ran = True  # whether a forward gave them
        self._valid: set[LaneView] = set()  # views whose logits are those of their texts

    def view(self) -> LaneView:
        """Another view, without rows."""
        return LaneView(self)

    def reserve(self, view: LaneView, rows: int, capacity: int, tokens: int | None) -> None:
        """Make room for the rows that a view may come to hold, while the others hold none."""
        self._reserved.pop(view, None)
        if rows:
            all_tokens = rows * capacity if tokens is None else tokens
            self._reserved[view] = rows, capacity, all_tokens
        sizes = [*self._reserved.values(), (0, 0, 0)]
        most, longest, all_tokens = (max(size) for size in zip(*sizes, strict=True))
        longest += -longest % CAPACITY_UNIT
        current = self.lane.rows
        if self.lane.all_pages:
            all_tokens = 0  # those that the first view took are for all of them
        if not self.owners and not self.admitting:
            self.lane.reserve(most, longest, all_tokens)
        elif most > current.most or longest > current.capacity:
            self.lane.grow(max(longest, current.capacity), most, 0)
        self.invalidate_all()

    def clear(self) -> None:
        """Drop all rows and caches, also those of prompts that are being read."""
        for view in self._reserved:
            view.lane_rows.clear()
        self._reserved.clear()
        self.owners.clear()
        self.admitting = False
        self.lane.reserve(0, 0)
        self.invalidate_all()

    def forward(self, view: LaneView) -> bool:
        """Read the pending tokens of all views, unless a view's logits are valid."""
        if view not in self._valid:
            self._ran = self.lane.forward()
            self._logits, self._valid = self.lane.logits(), set(self.owners)
        return self._ran

    def logits(self, view: LaneView) -> Tensor:
        """``(rows, V)`` logits of a view's rows: those of the last forward, if they are valid."""
        self.forward(view)
        assert self._logits is not None
        if self.lane.rows.bucketed:  # wherever a recording's rows will be
            return self.lane.kept_logits.index_select(0, view.index)
        return self._logits if view.covers_lane else self._logits.index_select(0, view.index)

    def is_valid(self, view: LaneView) -> bool:
        """Whether a view's logits are those of its texts."""
        return view in self._valid

    def validate(self, view: LaneView) -> None:
        """Take a view's logits for those of its texts, which are again what they were."""
        self._valid.add(view)

    def invalidate(self, view: LaneView) -> None:
        """Drop a view's cached logits."""
        self._valid.discard(view)

    def invalidate_all(self) -> None:
        """Drop all cached logits, for rows have other numbers now."""
        self._logits = None
        self._valid.clear()

    def release(self, row: int, text: Sequence[int]) -> None:
        """Give a row of the lane up; the last row takes its place."""
        last = self.lane.release(row, text)
        swap_remove(self.owners, row)
        if last != row:
            rows = self.owners[row].lane_rows
            rows[rows.index(last)] = row
        self.invalidate_all()


class LaneView:
    """The rows that one formula's batch holds in a shared lane; a lane to that batch.

    Attributes:
        lane_rows: the number in the lane of each of its rows.
        index: the same on the device, ``(rows,)`` int64; row 0 for idle ones.
        targets: where tokens are fed, ``(rows,)`` int64: idle ones to the lane's last row.
        covers_lane: whether its rows are all of the lane's, in their order.
        most: rows that it may come to hold.
    """

    def __init__(self, shared: SharedLane) -> None:
        self.shared, self.lane, self.device = shared, shared.lane, shared.lane.device
        self.lane_rows: list[int] = []
        self._buffers = 0  # how often they have been made anew
        self.most = 0
        self.covers_lane = False
        self._indexed: tuple[list[int], int] | None  # what ``index`` was made of
        self._make_index(0)

    weights_may_change = False

    @property
    def is_paged(self) -> bool:
        return self.lane.is_paged

    @property
    def keeps_pages(self) -> bool:
        return bool(self.lane.all_pages)

    def record(self) -> None:
        self.lane.record()

    @property
    def recordings(self) -> Recordings[Tensor] | None:
        """Of the lane's forwards."""
        return self.lane.recordings

    @property
    def why_eager(self) -> str | None:
        return self.lane.why_eager

    @property
    def keeps_logits(self) -> bool:
        return self.lane.keeps_logits

    @property
    def memory(self) -> Hashable:
        return self.lane.memory, self._buffers

    @property
    def live(self) -> LiveAttention:
        """Which forwards of the lane attend by live lengths."""
        return self.lane.live

    @property
    def fused(self) -> FusedLayers:
        """Whether those compute their layers in few launches."""
        return self.lane.fused

    @property
    def rows(self) -> ViewRows:
        return ViewRows(self)

    @property
    def vocabulary(self) -> int:
        return self.lane.vocabulary

    @property
    def adapters(self) -> Any:
        """The adapters on the lane's weights, where it can have any."""
        return self.lane.adapters  # type: ignore[attr-defined]

    def add_head(self, head: DeclaredHead) -> HeadColumns:
        """As the lane's; logits are read anew, with the head's columns."""
        self.shared.invalidate_all()
        return self.lane.add_head(head)

    def reserve(self, rows: int, capacity: int, tokens: int | None = None) -> None:
        while self.lane_rows:
            self.release(0)
        self.shared.reserve(self, rows, capacity, tokens)
        self.most = rows
        if rows > self._room:
            self._make_index(rows)

    def grow(self, capacity: int, rows: int = 0, tokens: int | None = None) -> None:
        self.lane.grow(max(capacity, self.lane.rows.capacity), rows, tokens)

    def use_buckets(self, on: bool) -> None:
        """As the lane does for all views: by whether it is recorded."""

    def admit(self, prompts: Sequence[Any], added: Sequence[Combination]) -> Reading:
        """Read prompts, as a lane does. One view at a time."""
        return self._read(self.lane.admit(prompts, added))

    def _read(self, reading: Reading) -> Reading:
        self.shared.admitting = True
        join = yield from reading

        def joined() -> Sequence[int]:
            self.shared.admitting = False
            self.shared.invalidate_all()
            rows = join()
            first = len(self.lane_rows)
            self.lane_rows += rows
            self.shared.owners += [self] * len(rows)
            return range(first, len(self.lane_rows))

        return joined

    def release(self, row: int, text: Sequence[int] = ()) -> int:
        self.shared.release(swap_remove(self.lane_rows, row), text)
        return len(self.lane_rows)

    def extend(self, ahead: int) -> int:
        return self.lane.extend(ahead)

    def pages_of(self, tokens: int) -> int:
        return self.lane.pages_of(tokens)

    def shared_pages(self, tokens: int) -> int:
        return self.lane.shared_pages(tokens)

    def pages_needed(self, tokens: Sequence[int], combination: Combination) -> int:
        return self.lane.pages_needed(tokens, combination)

    def cached_tokens(self, row: int) -> int:
        return self.lane.cached_tokens(self.lane_rows[row])

    def discard(self) -> None:
        self.lane.discard()

    def forget_prefixes(self) -> None:
        self.lane.forget_prefixes()

    @property
    def shares_prefixes(self) -> bool:
        return self.lane.shares_prefixes

    @shares_prefixes.setter
    def shares_prefixes(self, on: bool) -> None:
        self.lane.shares_prefixes = on

    @property
    def free_pages(self) -> int | None:
        """Of the lane, whoever has the others."""
        return self.lane.free_pages

    @property
    def all_pages(self) -> int | None:
        return self.lane.all_pages

    @property
    def pool(self) -> int:
        return self.lane.pool

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        rows = self.lane_rows
        self.lane.copy_rows([rows[i] for i in sources], [rows[i] for i in targets])
        self.shared.invalidate(self)

    def save(self) -> None:
        self.lane.save()

    @property
    def ready(self) -> bool:
        return self.lane.ready

    def forward(self) -> bool:
        self._update_index()
        return self.shared.forward(self)

    def logits(self) -> Tensor:
        self._update_index()
        return self.shared.logits(self)

    def feed(self, tokens: Tensor, growing: Growing | None = None) -> None:
        self._update_index()
        rows, mask = growing or (range(len(self.lane_rows)), None)
        own = [self.lane_rows[row] for row in rows]
        self.lane.rows.feed_rows(tokens, self.targets, own, mask)
        self.shared.invalidate(self)

    def logits_of_last(self, tokens: int) -> Tensor:
        self._update_index()
        return self.lane.logits_of_last(tokens).index_select(0, self.index)

    def changes(self) -> Changes:
        """What the host has changed of the rows' numbers, and of the lane's own rows."""
        return [*self._index_changes(), *self.lane.changes()]

    def _update_index(self) -> None:
        """Copy the rows' numbers to the device, where nobody has collected ``changes`` before."""
        if self._indexed != (self.lane_rows, len(self.shared.owners)):
            upload(self._index_changes())

    def _index_changes(self) -> Changes:
        lane_rows, all_rows, rows = self.lane_rows, len(self.shared.owners), self.lane.rows
        if self._indexed == (lane_rows, all_rows):
            return []
        width = self.rows.width
        if width > self._room:
            self._make_index(width)
        both = self._mirror.host.numbers, self._mirror.device.numbers
        on_host, on_device = (numbers[:, :width] for numbers in both)
        idle = width - len(lane_rows)
        numbers = [[*lane_rows, *[other] * idle] for other in (0, rows.most)]
        on_host.copy_(torch.tensor(numbers, dtype=torch.long))
        self.index, self.targets = on_device
        alone = not rows.bucketed  # a recording holds whoever else has rows
        self.covers_lane = alone and lane_rows == list(range(all_rows))
        self._indexed, self._mirror.stale = ([*lane_rows], all_rows), True
        return self._mirror.changes()

    def _make_index(self, rows: int) -> None:
        self._mirror, self._room = Mirror(self.device, numbers=((2, rows), torch.long)), rows
        self.index, self.targets = self._mirror.device.numbers
        self._indexed = None
        self._buffers += 1

    def footprint(self) -> Footprint:
        return self.lane.footprint()

    def graph_key(self, ahead: int) -> Hashable:
        return self.lane.graph_key(ahead)

    def logits_key(self) -> Hashable:
        return self.rows.width, self.covers_lane
