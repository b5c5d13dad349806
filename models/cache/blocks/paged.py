"""Rows whose keys and values are in pages, which texts with a common beginning share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...combinations import Combination
from ...errors import OutOfPages
from ..row_items import swap_remove
from ..rows import Rows
from ..window import Window
from .paged_cache import PagedCache
from .prefix_tree import Prefix, PrefixTree

CURE = "decode fewer rows at once"


@dataclass(eq=False)
class PageBlock:
    """The pages of a row, one after the other.

    Attributes:
        combination: whose keys they are.
        length: tokens of the text that they were known to hold last.
        cached: tokens of its prompt that were read before.
    """

    pages: list[int]
    combination: Combination
    length: int = 0
    cached: int = 0


class PagedBlocks:
    """A list of pages for each row in use.

    Whole pages are shared: they are full, and nobody writes in them. A page that is used in part
    belongs to one row, and is copied for another. A row that goes back to where others rely on its
    pages gets pages of its own.

    Args:
        rows: in use, which hold the tables.
        cache: the pages.
        shares: whether what was read is found again.
    """

    def __init__(self, rows: Rows, cache: PagedCache, shares: bool = True) -> None:
        self.rows, self.cache, self.shares = rows, cache, shares
        self._size = cache.size
        self._tree = PrefixTree(cache.size, cache.pages)
        self._pages = self._tree.pages
        self.held: list[PageBlock] = []
        self._made: list[PageBlock] = []  # they are not in use yet
        self._copies: list[tuple[int, int]] = []  # of pages, that are due

    @property
    def nbytes(self) -> int:
        return self.cache.nbytes

    @property
    def free_pages(self) -> int:
        return self._pages.available

    @property
    def all_pages(self) -> int:
        return self._pages.count - 1

    def pages_of(self, tokens: int) -> int:
        """Pages that a text of so many tokens takes."""
        return -(-tokens // self._size)

    def grow(self, pages: int) -> None:
        """Have so many pages at least; each row keeps its own."""
        if pages > self.all_pages:
            self.cache.grow(pages + 1)
            self._pages.grow(pages + 1)

    def make(self, tokens: Sequence[int], combination: Combination) -> PageBlock:
        block = PageBlock([], combination)
        self._made.append(block)
        if self.shares:  # whole pages, so that as few as can be are taken
            found, pages = self._find(combination, tokens[:-1])
            block.pages = [*pages[: found // self._size]]
            self._pages.hold(block.pages)
        if lacking := self._reach(block, len(tokens)):
            problem = f"a text of {len(tokens)} tokens takes {lacking} pages more than are free"
            raise OutOfPages(f"{problem}, of {self.all_pages}", CURE)
        return block

    def known(self, block: PageBlock, tokens: Sequence[int]) -> int:
        return self._find(block.combination, tokens).tokens if self.shares else 0

    def share(self, block: PageBlock, tokens: Sequence[int]) -> int:
        if not self.shares:
            return 0
        found, pages = self._find(block.combination, tokens)
        self._pages.hold(pages)
        own, block.pages = block.pages, [*pages, *block.pages[len(pages) :]]
        self._pages.release(reversed(own[: len(pages)]))
        for number in range(found // self._size, len(block.pages)):
            if not self._pages.may_write(page := block.pages[number], 0):
                if not self._pages.available:  # what ``make`` had found is forgotten
                    raise OutOfPages("a text has lost the pages that it shared", CURE)
                block.pages[number] = self._pages.take()
                if number < len(pages):
                    self.cache.copy_pages([(page, block.pages[number])])
                self._pages.release([page])
        block.length = found
        return found

    def keep(self, block: PageBlock, tokens: Sequence[int]) -> None:
        block.length = max(block.length, len(tokens))
        if self.shares:
            shared = tokens[: block.combination.shared]
            self._tree.insert(block.combination.key, shared, block.pages)

    def join(self, blocks: Sequence[PageBlock]) -> Sequence[PageBlock]:
        self._made = []
        first = len(self.held)
        self.held += blocks
        for row in range(first, len(self.held)):
            self.rows.set_pages(row, self.held[row].pages)
        return blocks

    def extend(self, ahead: int) -> int:
        lacking = 0
        lengths, ends = self.rows.counts()
        for row, (block, length, end) in enumerate(zip(self.held, lengths, ends, strict=True)):
            if length < block.length:
                self.rewind(row, length)
            else:
                block.length = length
            if end + ahead > len(block.pages) * self._size:
                lacking += self._reach(block, end + ahead)
                self.rows.set_pages(row, block.pages)
        return lacking

    def fork(self, sources: Sequence[int]) -> None:
        first, lengths = len(self.held), self.rows.counts()[0]
        self.held += [self._forked(source, lengths[source]) for source in sources]
        self._copy()
        for row in range(first, len(self.held)):
            self._put(row, self.held[row])

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        old = [self.held[target] for target in targets]
        kept = {id(self.held[source]) for source in sources}
        for block in old:
            if id(block) not in kept:
                self._release(block)  # so that there is a page for each copy
        lengths = self.rows.counts()[0]  # a target has its source's text by now
        pairs = zip(sources, targets, strict=True)
        new = [self._forked(source, lengths[target]) for source, target in pairs]
        self._copy()
        for block in old:
            if id(block) in kept:
                self._release(block)
        for target, block in zip(targets, new, strict=True):
            self.held[target] = block
            self._put(target, block)

    def rewind(self, row: int, length: int) -> None:
        block = self.held[row]
        kept = self.pages_of(length)
        self._pages.release(reversed(block.pages[kept:]))
        del block.pages[kept:]
        last, rest = divmod(length, self._size)
        if rest and not self._pages.may_write(block.pages[last], rest):
            shared = block.pages.pop()
            self._add_copy(shared, block)
            self._copy()
            self._pages.release([shared])
        block.length = length
        self._put(row, block)

    def drop(self, row: int) -> None:
        self._release(swap_remove(self.held, row))

    def discard(self) -> None:
        for block in self._made:
            self._release(block)
        self._made, self._sent = [], None

    def clear(self) -> None:
        for block in (*self.held, *self._made):
            self._release(block)
        self.held, self._made, self._sent = [], [], None

    def forget(self) -> None:
        self._tree.clear()

    def pages_needed(self, tokens: Sequence[int], combination: Combination) -> int:
        """Pages that a new text takes of those that are free now, with one token more."""
        needed = self.pages_of(len(tokens) + 1)
        if self.shares:
            found, pages = self._find(combination, tokens)
            needed -= sum(self._pages.in_use(page) for page in pages[: found // self._size])
        return needed

    def tables(self, blocks: Sequence[PageBlock]) -> Tensor:
        tables = torch.zeros(len(blocks), self.rows.pages, dtype=torch.int32)
        for row, block in zip(tables, blocks, strict=True):
            row[: len(block.pages)] = torch.tensor(block.pages)
        return tables

    def window(self, window: Window, blocks: Sequence[PageBlock] | None = None) -> Window:
        if blocks is None:
            window.tables = self.rows.tables[: self.rows.width]
        assert window.tables is not None
        window.places = self._places(window.cache_positions, window.tables)
        return window

    def move_tokens(self, source: Tensor, target: Tensor) -> None:
        tables = self.rows.tables[: self.rows.width]
        self.cache.move_tokens(self._places(source, tables), self._places(target, tables))

    def _find(self, combination: Combination, tokens: Sequence[int]) -> Prefix:
        """The longest beginning of a text that was read before, of what may be shared."""
        return self._tree.find(combination.key, tokens[: combination.shared])

    def _places(self, positions: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
        """Page and offset of cache positions ``(n, q)``; beyond a row's pages, the scratch page."""
        return tables.gather(1, positions // self._size).long(), positions % self._size

    def _put(self, row: int, block: PageBlock) -> None:
        """Make a block a row's; what found no page is read again."""
        block.length = min(block.length, len(block.pages) * self._size)
        self.rows.shorten(row, block.length)
        self.rows.set_pages(row, block.pages)

    def _forked(self, source: int, length: int) -> PageBlock:
        """A block with the same text: whole pages are shared, the last one is copied."""
        block = self.held[source]
        block.length = max(block.length, length)  # before that, it may no longer write
        shared = 0 if self.rows.limits else length // self._size  # its own, if they change
        forked = PageBlock(block.pages[:shared], block.combination, length)
        self._pages.hold(forked.pages)
        for page in block.pages[shared : self.pages_of(length)]:
            self._add_copy(page, forked)
        return forked

    def _reach(self, block: PageBlock, tokens: int) -> int:
        """Add pages until there is room for a text; or how many are lacking."""
        needed = self.pages_of(tokens) - len(block.pages)
        if needed > self._pages.available:
            return needed - self._pages.available
        block.pages += [self._pages.take() for _ in range(needed)]
        return 0

    def _add_copy(self, source: int, block: PageBlock) -> None:
        """Add a copy of a page to a block; without a free page, what is in it is read again."""
        if self._pages.available:
            block.pages.append(self._pages.take())
            self._copies.append((source, block.pages[-1]))

    def _copy(self) -> None:
        """Copy pages, all that are due together."""
        self.cache.copy_pages(self._copies)
        self._copies = []

    def _release(self, block: PageBlock) -> None:
        self._pages.release(reversed(block.pages))
