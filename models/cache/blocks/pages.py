"""The pages of a pool: who holds each, and which are free."""

from __future__ import annotations

from collections.abc import Callable, Iterable

SCRATCH = 0  # the page that belongs to nobody: what is written there is never read


class Pages:
    """Numbers of pages, counted by who holds them: rows, and the tree of what was read.

    A page that the tree alone holds is *idle*: it is kept until it is needed, the one first that
    was idle the longest.

    Args:
        count: of pages, the scratch page among them.
        evict: makes the tree let go of a page.
    """

    def __init__(self, count: int, evict: Callable[[int], None]) -> None:
        self.count, self._evict = count, evict
        self._free = list(range(count - 1, SCRATCH, -1))
        self._rows = [0] * count
        self._kept = [0] * count  # positions of each page that the tree relies on
        self._idle: dict[int, None] = {}  # in the order in which they became idle

    def grow(self, count: int) -> None:
        """Have so many pages; those there were keep their numbers."""
        more = range(count - 1, self.count - 1, -1)
        self._free = [*more, *self._free]  # the old ones are taken first
        self._rows += [0] * len(more)
        self._kept += [0] * len(more)
        self.count = count

    @property
    def available(self) -> int:
        """Pages that could be taken now."""
        return len(self._free) + len(self._idle)

    @property
    def idle(self) -> int:
        """Pages that only the tree holds."""
        return len(self._idle)

    def take(self) -> int:
        """A page for a row to write in; there must be one available."""
        if not self._free:
            self._evict(next(iter(self._idle)))
        page = self._free.pop()
        self._rows[page] = 1
        return page

    def hold(self, pages: Iterable[int]) -> None:
        """A row more has these pages."""
        for page in pages:
            self._rows[page] += 1
            self._idle.pop(page, None)

    def release(self, pages: Iterable[int]) -> None:
        """A row less has these pages; the first of them becomes idle first."""
        for page in pages:
            self._rows[page] -= 1
            if not self._rows[page]:
                if self._kept[page]:
                    self._idle[page] = None
                else:
                    self._free.append(page)

    def keep(self, page: int, positions: int) -> None:
        """The tree relies on so many positions of a page, or on none any more."""
        self._kept[page] = positions
        if not positions and not self._rows[page]:
            self._idle.pop(page, None)
            self._free.append(page)

    def in_use(self, page: int) -> bool:
        """Whether any row has a page."""
        return self._rows[page] > 0

    def may_write(self, page: int, position: int) -> bool:
        """Whether the row that has a page may write from one of its positions on."""
        return self._rows[page] == 1 and self._kept[page] <= position
