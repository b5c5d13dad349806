"""What was read, kept beside the rows that read it: copied out, and copied in again.

Rows whose keys lie side by side cannot share them. One copy then takes the place of a reading.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from ..kv_cache import RowCache
from ..survey import LayerShape
from .prefix_tree import UNIT, PrefixTree

PAGE = 64  # tokens
BYTES = 1 << 30  # that are kept at most


class PrefixStore:
    """Pages in which beginnings of texts are kept, as long as there is room for them."""

    def __init__(self) -> None:
        self._shapes: dict[int, LayerShape] = {}  # by layer, known when a forward has run
        self._tree = PrefixTree(PAGE, 0)
        self._pages: dict[int, list[Tensor]] = {}  # keys and values of each layer in turn

    def find(self, key: Hashable, tokens: Sequence[int]) -> int:
        """How many tokens there are of the beginning of a text."""
        return self._tree.find(key, tokens).tokens

    def load(self, key: Hashable, tokens: Sequence[int], cache: RowCache, row: int) -> int:
        """Copy the beginning of a text into a row of a cache; how many of its tokens."""
        prefix = self._tree.find(key, tokens)
        if prefix.tokens:
            self._tree.pages.hold(prefix.pages)  # they are used now
            self._tree.pages.release(reversed(prefix.pages))
            self.make_layers(cache, self._pages[prefix.pages[0]][0])
            cache.wrote(row + 1, prefix.tokens)
            for kept, target in self._pairs(prefix.pages, 0, prefix.tokens, cache, row):
                target.copy_(kept)
        return prefix.tokens

    def save(self, key: Hashable, tokens: Sequence[int], cache: RowCache, row: int) -> None:
        """Copy what is not kept yet of a text out of a row of a cache; as much as there is room."""
        end = len(tokens) - len(tokens) % UNIT
        if not self._has_shapes(cache) or not end:
            return
        known, pages = self._tree.find(key, tokens), self._tree.pages
        if known.tokens == end:
            return
        held, start = list(known.pages), known.tokens
        pages.hold(held)
        if start % PAGE and not pages.may_write(held[-1], start % PAGE):
            pages.release([held.pop()])
            start -= start % PAGE
        while len(held) * PAGE < end and pages.available:
            held.append(self._taken(cache))
        end = min(end, len(held) * PAGE)
        if end > known.tokens:
            for kept, source in self._pairs(held, start, end, cache, row):
                kept.copy_(source)
            self._tree.insert(key, tokens[:end], held)
        pages.release(reversed(held))

    def make_layers(self, cache: RowCache, like: Tensor) -> None:
        """Make the layers of a cache, where no forward has, of a tensor's dtype and device."""
        cache.make_layers(self._shapes, like)

    def clear(self) -> None:
        """Keep nothing."""
        self._tree.clear()
        self._pages.clear()

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(tensor.nbytes for page in self._pages.values() for tensor in page)

    def _has_shapes(self, cache: RowCache) -> bool:
        """Whether it is known what the layers are; a cache knows when a forward has run."""
        layers = cache.key_layers
        if not self._shapes and layers:
            self._shapes = {number: layer.shape for number, layer in layers.items()}
            numbers = sum(shape.numbers for shape in self._shapes.values())
            if numbers:
                like = next(iter(layers.values())).keys
                assert like is not None
                self._tree = PrefixTree(PAGE, 1 + BYTES // (PAGE * numbers * like.itemsize))
        return bool(self._shapes)

    def _taken(self, cache: RowCache) -> int:
        """A page to write in, which gets its memory when it is first used."""
        page = self._tree.pages.take()
        if page not in self._pages:
            self._pages[page] = [
                tensor.new_empty(tensor.shape[1], PAGE, tensor.shape[3])
                for layer in cache.key_layers.values()
                for tensor in layer.tensors
            ]
        return page

    def _pairs(
        self, pages: Sequence[int], start: int, end: int, cache: RowCache, row: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Views of what is kept of positions of a text, each with that of a row of a cache."""
        pairs = []
        tensors = [tensor for layer in cache.key_layers.values() for tensor in layer.tensors]
        for number, page in enumerate(pages):
            first, last = max(start, number * PAGE), min(end, (number + 1) * PAGE)
            if first >= last:
                continue
            own = slice(first - number * PAGE, last - number * PAGE)
            for kept, tensor in zip(self._pages[page], tensors, strict=True):
                pairs.append((kept[:, own], tensor[row, :, first:last]))
        return pairs
