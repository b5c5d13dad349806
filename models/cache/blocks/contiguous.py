"""Rows whose keys and values lie side by side: a CPU's, and those that are read through masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...combinations import Combination
from ..kv_cache import RowCache
from ..row_items import swap_remove
from ..rows import Rows
from ..window import Window
from .store import PrefixStore


@dataclass(eq=False)
class RowBlock:
    """A row of the cache.

    Attributes:
        row: its number; -1 as long as nothing is in it.
        combination: whose keys they are.
        length: tokens of its text when it was made.
        cached: tokens of its prompt that were read before.
    """

    row: int
    combination: Combination
    length: int
    cached: int = 0


class ContiguousBlocks:
    """A row of the cache for each row in use, of the same number; new ones are behind these.

    Args:
        rows: in use.
        cache: of as many rows, and as long.
        store: where what was read is kept; None keeps nothing.
    """

    free_pages: int | None = None
    all_pages: int | None = None

    def __init__(self, rows: Rows, cache: RowCache, store: PrefixStore | None = None) -> None:
        self._rows, self.cache, self._store = rows, cache, store
        self.held: list[RowBlock] = []
        self._made: list[RowBlock] = []  # they are not in use yet
        self._first = self._placed = 0  # the row of the first of them, and how many have one

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes

    @property
    def shares(self) -> bool:
        return self._store is not None

    def make(self, tokens: Sequence[int], combination: Combination) -> RowBlock:
        if not self._made:
            self._first, self._placed = len(self.held), 0
        block = self._block(-1, combination, len(tokens))
        self._made.append(block)
        return block

    def _block(self, row: int, combination: Combination, length: int) -> RowBlock:
        return RowBlock(row, combination, length)

    def known(self, block: RowBlock, tokens: Sequence[int]) -> int:
        if self._store is None:
            return 0
        own = block.combination
        return self._store.find(own.key, tokens[: own.shared])

    def share(self, block: RowBlock, tokens: Sequence[int]) -> int:
        block.row = self._first + self._placed  # adjacent rows are read in one forward
        self._placed += 1
        if self._store is None:
            return 0
        own = block.combination
        return self._store.load(own.key, tokens[: own.shared], self.cache, block.row)

    def keep(self, block: RowBlock, tokens: Sequence[int]) -> None:
        if self._store is not None:
            own = block.combination
            self._store.save(own.key, tokens[: own.shared], self.cache, block.row)

    def join(self, blocks: Sequence[RowBlock]) -> Sequence[RowBlock]:
        first, end = len(self.held), len(self.held) + len(blocks)
        far = [block for block in blocks if block.row >= end]
        if far:  # others have left meanwhile
            taken = {block.row for block in blocks}
            free = [row for row in range(first, end) if row not in taken]
            longest = max(block.length for block in far)
            self.cache.copy_rows([block.row for block in far], free, longest)
            for block, row in zip(far, free, strict=True):
                block.row = row
        self._made = []
        ordered = sorted(blocks, key=lambda block: block.row)
        self.held += ordered
        return ordered

    def fork(self, sources: Sequence[int]) -> None:
        first = len(self.held)
        targets = range(first, first + len(sources))
        self.held += [
            self._block(row, self.held[source].combination, 0)
            for row, source in zip(targets, sources, strict=True)
        ]
        self.cache.copy_rows(sources, targets, self._rows.longest)

    def extend(self, ahead: int) -> int:
        return 0

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        self.cache.copy_rows(sources, targets, self._rows.longest)
        combinations = [self.held[source].combination for source in sources]
        for target, combination in zip(targets, combinations, strict=True):
            self.held[target].combination = combination

    def rewind(self, row: int, length: int) -> None:
        """Nothing: what counts of a row is what its length says."""

    def drop(self, row: int) -> None:
        last = len(self.held) - 1
        self.cache.release(row, last, self._rows.longest)
        self.held[last].row = row
        swap_remove(self.held, row)
        self._tidy()

    def discard(self) -> None:
        self._made = []
        self._tidy()

    def pages_of(self, tokens: int) -> int:
        return 0

    def pages_needed(self, tokens: Sequence[int], combination: Combination) -> int:
        return 0

    def clear(self) -> None:
        self.held, self._made = [], []
        self._tidy()

    def forget(self) -> None:
        if self._store is not None:
            self._store.clear()

    def tables(self, blocks: Sequence[RowBlock]) -> Tensor:
        return torch.empty(len(blocks), 0, dtype=torch.int32)

    def window(self, window: Window, blocks: Sequence[RowBlock] | None = None) -> Window:
        if window.segments:
            return window
        rows = slice(0, self._rows.width)
        if blocks is not None:
            rows = slice(blocks[0].row, blocks[0].row + len(blocks))
        index, writes = self._rows.index[rows], None
        if blocks is None and self._rows.bucketed:
            writes = self._rows.writes(window.cache_positions)
        if window.reads is not None:
            behind = window.cache_positions.new_full((), self._rows.capacity)
            writes = window.cache_positions.where(window.reads[:, None], behind)
        window.rows, window.index, window.writes, window.tables = rows, index, writes, None
        return window

    def move_tokens(self, source: Tensor, target: Tensor) -> None:
        index = self._rows.index[: self._rows.width]
        self.cache.move_tokens(index, source, self._rows.writes(target))

    def _tidy(self) -> None:
        """Without rows, give memory back."""
        if not self.held and not self._made:
            self.cache.clear()
