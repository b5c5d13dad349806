"""What rows with states have read, kept beside them: copies of states, each of one beginning.

Keys and values are found at any length that was read. A state is found at the lengths at which it
was kept: the ends of texts, and where texts that begin alike part.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from torch import Tensor

from ..kv_cache import RowCache, SavedStates
from .prefix_tree import UNIT, common_prefix
from .store import PrefixStore

STATE_BYTES = 1 << 29  # of states that are kept at most
TEXTS = 256  # of which any are kept; to find one, all are looked at


class _Kept(NamedTuple):
    """What is kept of one beginning of a text.

    Attributes:
        states: of all that it holds, and ``said``, whether what is said at its end is among them.
        rest: keys and values, in turn, of its tokens after the last whole unit.
    """

    states: SavedStates
    said: bool
    rest: Sequence[Tensor]

    @property
    def nbytes(self) -> int:
        return self.states.nbytes + sum(tensor.nbytes for tensor in self.rest)


class StateStore:
    """Copies of the states of beginnings, the ones that were used last."""

    def __init__(self) -> None:
        self._keys = PrefixStore()
        self._kept: OrderedDict[tuple[Hashable, tuple[int, ...]], _Kept] = OrderedDict()

    def find(self, key: Hashable, tokens: Sequence[int], says: bool) -> int:
        """How many tokens there are of the beginning of a text.

        Args:
            says: whether it may be all of them only if what is said at the end is known.
        """
        for length in sorted({len(text) for _, text in self._kept}, reverse=True):
            kept = self._kept.get((key, tuple(tokens[:length]))) if length <= len(tokens) else None
            if kept is None or (says and length == len(tokens) and not kept.said):
                continue
            known = self._keys.find(key, tokens[:length]) if kept.rest else length
            if known >= length - length % UNIT:
                return length
        return 0

    def parts(self, key: Hashable, tokens: Sequence[int]) -> int:
        """How many first tokens a text has in common with any other of which something is kept."""
        texts = (text for known, text in self._kept if known == key)
        return max((common_prefix(text, tokens) for text in texts), default=0)

    def load(self, key: Hashable, tokens: Sequence[int], cache: RowCache, row: int) -> bool:
        """Copy a beginning that was found into a row; whether what is said at its end is known."""
        kept = self._kept[key, tuple(tokens)]
        self._kept.move_to_end((key, tuple(tokens)))
        start = len(tokens) - len(tokens) % UNIT
        cache.wrote(row + 1, len(tokens))
        if kept.rest:
            self._keys.make_layers(cache, kept.rest[0])
            self._keys.load(key, tokens[:start], cache, row)
            for kept_rest, tensor in zip(kept.rest, _keys_and_values(cache), strict=True):
                tensor[row, :, start : len(tokens)] = kept_rest
        cache.put(row, kept.states)
        return kept.said

    def save(
        self, key: Hashable, tokens: Sequence[int], cache: RowCache, row: int, said: bool
    ) -> None:
        """Copy the states of a row out of a cache, and what there is not yet of its keys."""
        text = key, tuple(tokens)
        if not tokens or (text in self._kept and self._kept[text].said >= said):
            return
        self._keys.save(key, tokens, cache, row)
        last = slice(len(tokens) - len(tokens) % UNIT, len(tokens))
        rest = [tensor[row, :, last].clone() for tensor in _keys_and_values(cache)]
        self._kept[text] = _Kept(cache.states_of(row), said, rest)
        self._kept.move_to_end(text)
        while self.nbytes > STATE_BYTES or len(self._kept) > TEXTS:
            self._kept.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """Bytes of states, and of the keys that no page has."""
        return sum(kept.nbytes for kept in self._kept.values())

    def clear(self) -> None:
        """Keep nothing."""
        self._keys.clear()
        self._kept.clear()


def _keys_and_values(cache: RowCache) -> list[Tensor]:
    return [tensor for layer in cache.key_layers.values() for tensor in layer.tensors]
