"""Rows whose layers keep states, beside keys and values or without any."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...combinations import Combination
from .contiguous import ContiguousBlocks, RowBlock

UNSURE = -1  # tokens read, while a forward runs


class Known(NamedTuple):
    """What a row's states are of.

    Attributes:
        read: tokens of its text that they hold.
        said: whether what the model says at the end of these is known, too.
    """

    read: int = 0
    said: bool = False


@dataclass(eq=False)
class StateBlock(RowBlock):
    """A row whose states hold the beginning of its text; ``saved`` is the same of their copy."""

    known: Known = Known()
    saved: Known = Known()


class StateBlocks(ContiguousBlocks):
    """A row of the cache, states among it, for each row in use.

    Nothing can be taken out of a state. A row whose text is cut back goes on from the copy that was
    saved of its states, if that holds no more than what is left of it, or else reads its text from
    the beginning. Rows share states by copying.
    """

    held: list[StateBlock]  # type: ignore[assignment]

    def _block(self, row: int, combination: Combination, length: int) -> StateBlock:
        return StateBlock(row, combination, length)

    def keep(self, block: RowBlock, tokens: Sequence[int]) -> None:
        super().keep(block, tokens)
        assert isinstance(block, StateBlock)
        block.known = Known(len(tokens))

    def say(self, block: RowBlock, said: Tensor) -> None:
        """Keep what is said at the end of the text of a block, ``(columns,)``."""
        assert isinstance(block, StateBlock)
        self.cache.say(said[None], [block.row])
        block.known = block.known._replace(said=True)

    def join(self, blocks: Sequence[RowBlock]) -> Sequence[RowBlock]:
        ordered = super().join(blocks)
        self.cache.begin([block.row for block in self.held if not block.known.read])
        return ordered

    def fork(self, sources: Sequence[int]) -> None:
        first = len(self.held)
        super().fork(sources)
        self._follow(sources, range(first, len(self.held)))

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        super().copy(sources, targets)
        self._follow(sources, targets)

    def _follow(self, sources: Sequence[int], targets: Iterable[int]) -> None:
        known = [(self.held[source].known, self.held[source].saved) for source in sources]
        for target, (now, saved) in zip(targets, known, strict=True):
            self.held[target].known, self.held[target].saved = now, saved

    def rewind(self, row: int, length: int) -> None:
        self._rewind({row: length})

    def _rewind(self, lengths: Mapping[int, int]) -> None:
        """Go on from saved states, or from the beginning: by row, how much of its text is left."""
        saved = [row for row, most in lengths.items() if 0 < self.held[row].saved.read <= most]
        fresh = [row for row in lengths if row not in saved]
        self.cache.restore(saved)
        self.cache.begin(fresh)
        for row in fresh:
            self.held[row].saved = Known()
        for row in lengths:
            self.held[row].known = self.held[row].saved
            self._rows.shorten(row, self.held[row].known.read)

    def extend(self, ahead: int) -> int:
        """Have the states of each row hold what its length says; no room is needed."""
        lengths = enumerate(self._rows.counts()[0])
        wrong = {row: length for row, length in lengths if self.held[row].known.read != length}
        if wrong:
            self._rewind(wrong)
        return 0

    def reading(self) -> None:
        """A forward of the rows in use begins: until it has ended, nobody knows what they hold."""
        self._before = [block.known for block in self.held]
        for block in self.held:
            block.known = Known(UNSURE)

    def has_read(self, rows: Container[int], said: Container[int] = ()) -> None:
        """It has ended: some rows have read what their lengths say; of some it is known, too,
        what is said at the end of it."""
        lengths = self._rows.counts()[0]
        for row, (block, before) in enumerate(zip(self.held, self._before, strict=True)):
            block.known = Known(lengths[row], row in said) if row in rows else before

    def save(self) -> None:
        """Keep a copy of the states of every row, to go back to."""
        rows = [row for row, block in enumerate(self.held) if block.saved != block.known]
        if rows:
            self.cache.save(rows)
        for row in rows:
            self.held[row].saved = self.held[row].known
