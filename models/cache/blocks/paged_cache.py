"""A key/value cache in pages, under transformers' Cache contract.

All layers of a model have one pool. A page holds the keys and values of ``size`` positions in every
layer, so that a page is copied by one launch. A table says which pages a row has.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from ..layers.states import LayerKind
from ..memory import mapped_zeros
from ..survey import LayerShape
from ..window import Window


class PagedLayer(CacheLayerMixin):
    """One layer's keys and values: ``(pages, size, groups, head size)`` views of the pool."""

    is_sliding = False

    def __init__(self, cache: PagedCache, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._cache = cache
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the pool is there."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write ``(n, heads, q, size)`` as the window says.

        Returns:
            The pages, ``(pages, heads, positions, size)``, for attention that reads tables;
            elsewhere what the rows have up to the window's limit, copied side by side.
        """
        window = self._cache.window
        assert window is not None and window.places is not None
        assert self.keys is not None and self.values is not None
        self.keys[window.places] = key_states.transpose(1, 2)
        self.values[window.places] = value_states.transpose(1, 2)
        keys, values = self.keys.transpose(1, 2), self.values.transpose(1, 2)
        if window.live:
            return keys, values
        return side_by_side(keys, window), side_by_side(values, window)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (self._cache.window.limit if self._cache.window else query_length), 0

    def get_seq_length(self) -> int:
        """0: rows have lengths of their own, and models get positions and masks."""
        return 0

    def get_max_length(self) -> int:
        return 1 << 30


class PagedCache(Cache):
    """The pages of one lane.

    Args:
        shapes: of the layers.
        pages: how many there are, the scratch page among them.
        size: positions of a page.
        like: an empty tensor of their dtype, on their device.

    Attributes:
        window: of the forward that runs, or ran last.
        kinds, attends: as of ``RowCache``: all layers keep keys and values.
    """

    kinds: Sequence[LayerKind] = ()
    attends = True

    def __init__(self, shapes: Sequence[LayerShape], pages: int, size: int, like: Tensor) -> None:
        self.size, self.pages = size, pages
        self.window: Window | None = None
        self._shapes = shapes
        self._pool = mapped_zeros(like, (pages, size * sum(shape.numbers for shape in shapes)))
        cache: Any = weakref.proxy(self)  # so that a cache is freed at once
        super().__init__(layers=[PagedLayer(cache, *views) for views in self._views()])

    def settle(self) -> None:
        """The forward has ended; there are no states."""

    def _views(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each layer, its keys and its values in the pool."""
        sizes = [self.size * shape.numbers for shape in self._shapes]
        for shape, memory in zip(self._shapes, torch.split(self._pool, sizes, dim=1), strict=True):
            keys = self.size * shape.groups * shape.key_size
            shared = self.pages, self.size, shape.groups
            yield (
                memory[:, :keys].view(*shared, shape.key_size),
                memory[:, keys:].view(*shared, shape.value_size),
            )

    def grow(self, pages: int) -> None:
        """Have so many pages, in other memory, and what was in those that there were."""
        old, self.pages = self._pool, pages
        self._pool = mapped_zeros(old[:0], (pages, old.shape[1]))
        self._pool[: len(old)] = old
        for layer, (keys, values) in zip(self.layers, self._views(), strict=True):
            layer.keys, layer.values = keys, values

    def see(self, window: Window) -> None:
        """The next forward writes and reads as this window says."""
        self.window = window

    def copy_pages(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Make pages what others are, in all layers: of each pair, the second what the first is.

        All by one launch; none is a source and a target.
        """
        if pairs:
            sources = [self._pool[source] for source, _ in pairs]
            torch._foreach_copy_([self._pool[target] for _, target in pairs], sources)

    def move_tokens(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> None:
        """Copy positions, each ``(n, 1)`` pages and offsets, in all layers."""
        for layer in self.layers:
            for tensor in (layer.keys, layer.values):
                assert tensor is not None
                tensor[target] = tensor[source]

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self._pool[0].nbytes

    @property
    def nbytes(self) -> int:
        """Bytes of all pages."""
        return self._pool.nbytes

    def _tensors(self) -> list[Tensor]:
        return [self._pool]


def side_by_side(pool: Tensor, window: Window) -> Tensor:
    """``(n, groups, limit, size)``: the pages of each row one after the other, copied.

    What no query of a row sees becomes zeros, for it may be anything.
    """
    assert window.tables is not None
    n, _, size, _ = len(window.tables), *pool.shape[1:]
    used = -(-window.limit // size)
    rows = pool[window.tables[:, :used]].transpose(2, 3)  # n, pages, size, groups, head
    rows = rows.reshape(n, used * size, *rows.shape[3:])[:, : window.limit]
    ends = window.cache_positions.amax(dim=1)[:, None]
    live = torch.arange(window.limit, device=pool.device) <= ends
    return rows.masked_fill(~live[:, :, None, None], 0).transpose(1, 2)
