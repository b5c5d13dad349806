"""Rows whose layers keep states, beside keys and values or without any."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ...combinations import Combination
from ..kv_cache import RowCache
from ..rows import Rows
from .contiguous import ContiguousBlocks, RowBlock
from .state_store import StateStore

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
    """A row whose states hold the beginning of its text.

    Attributes:
        known: what they are of, and ``saved`` the same of their copy.
        stops: lengths at which others part from its text, and states are kept.
    """

    known: Known = Known()
    saved: Known = Known()
    stops: Sequence[int] = ()


class StateBlocks(ContiguousBlocks):
    """A row of the cache, states among it, for each row in use.

    Nothing can be taken out of a state. A row whose text is cut back goes on from the copy that was
    saved of its states, if that holds no more than what is left of it, or else reads its text from
    the beginning. Rows share states by copying.
    """

    held: list[StateBlock]  # type: ignore[assignment]

    def __init__(self, rows: Rows, cache: RowCache, store: StateStore | None, says: bool) -> None:
        super().__init__(rows, cache)
        self._states, self._says = store, says

    @property
    def shares(self) -> bool:
        return self._states is not None

    def _block(self, row: int, combination: Combination, length: int) -> StateBlock:
        return StateBlock(row, combination, length)

    def known(self, block: RowBlock, tokens: Sequence[int]) -> int:
        if self._states is None:
            return 0
        own = block.combination
        return self._states.find(own.key, tokens[: own.shared], self._says)

    def share(self, block: RowBlock, tokens: Sequence[int]) -> int:
        super().share(block, tokens)
        assert isinstance(block, StateBlock)
        cached, own = self.known(block, tokens), block.combination
        if self._states is not None and cached:
            said = self._states.load(own.key, tokens[:cached], self.cache, block.row)
            block.known = Known(cached, said)
        return cached

    def parts(self, block: RowBlock, tokens: Sequence[int]) -> int:
        """How many first tokens its text has in common with any that was read before."""
        if self._states is None:
            return 0
        own = block.combination
        return self._states.parts(own.key, tokens[: own.shared])

    def keep(self, block: RowBlock, tokens: Sequence[int]) -> None:
        assert isinstance(block, StateBlock)
        if block in self._made and block.known.read != len(tokens):
            block.known = Known(len(tokens))
        if len(tokens) == block.known.read:
            self._save(block, tokens)

    def say(self, block: RowBlock, tokens: Sequence[int], said: Tensor) -> None:
        """Keep what is said at the end of the text of a block, ``(columns,)``."""
        assert isinstance(block, StateBlock)
        self.cache.say(said[None], [block.row])
        block.known = Known(len(tokens), True)
        self._save(block, tokens)

    def _save(self, block: StateBlock, tokens: Sequence[int]) -> None:
        """Let others find what a block has read, if they may share all of it."""
        own = block.combination
        if self._states is not None and tokens[: own.shared] == tokens:
            self._states.save(own.key, tokens, self.cache, block.row, block.known.said)

    def forget(self) -> None:
        if self._states is not None:
            self._states.clear()

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

    def have_read(self) -> None:
        """Every row has read all that its length says, and it is known what is said then."""
        for block, length in zip(self.held, self._rows.counts()[0], strict=True):
            block.known = Known(length, True)

    def save(self) -> None:
        """Keep a copy of the states of every row, to go back to."""
        rows = [row for row, block in enumerate(self.held) if block.saved != block.known]
        if rows:
            self.cache.save(rows)
        for row in rows:
            self.held[row].saved = self.held[row].known
