"""A layer that keeps keys and values by position, under transformers' contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from ..memory import mapped_zeros
from ..survey import LayerShape
from ..window import Window


class RowsOfCache(Protocol):
    """A cache, as far as its layers know it; attributes are those of ``RowCache``."""

    rows: int
    capacity: int
    scratch: int
    window: Window | None


class RowLayer(CacheLayerMixin):
    """One layer's keys and values, ``(rows, heads, capacity, size)`` each."""

    is_sliding = False

    def __init__(self, cache: RowsOfCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the shapes from the first keys and values; zeros, for masked ones must be finite."""
        cache, heads = self._cache, key_states.shape[1]
        shape = (cache.rows, heads, cache.capacity + cache.scratch)
        self.keys = zeros(key_states, (*shape, key_states.shape[-1]))
        self.values = zeros(value_states, (*shape, value_states.shape[-1]))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write ``(n, heads, q, size)`` as the window says; return views up to its limit.

        Of copies of a row, each with one query, the keys are written side by side.
        """
        window = self._cache.window
        assert window is not None
        if window.copies:
            key_states, value_states = map(window.as_queries, (key_states, value_states))
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        write(self.keys, key_states, window)
        write(self.values, value_states, window)
        view = (window.rows, slice(None), slice(window.limit))
        return self.keys[view], self.values[view]

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values, once there are any."""
        return [tensor for tensor in (self.keys, self.values) if tensor is not None]

    @property
    def shape(self) -> LayerShape:
        """Heads and their sizes, once there are keys."""
        assert self.keys is not None and self.values is not None
        return LayerShape(self.keys.shape[1], self.keys.shape[3], self.values.shape[3])

    def grow(self, rows: int, tokens: int, kept: Sequence[slice]) -> None:
        """Make room for so many rows and tokens, and keep what was written."""
        if self.keys is not None and self.values is not None:
            self.keys = _grown(self.keys, rows, tokens, kept)
            self.values = _grown(self.values, rows, tokens, kept)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (self._cache.window.limit if self._cache.window else query_length), 0

    def get_seq_length(self) -> int:
        """0: rows have lengths of their own, and models get positions and masks."""
        return 0

    def get_max_length(self) -> int:
        return self._cache.capacity


class IndexedRowLayer(RowLayer):
    """The same, and keys of an indexer, by which queries choose among what they see.

    Attributes:
        indexer_keys: ``(rows, 1, capacity, size)``.
    """

    indexer_keys: Tensor | None = None

    def update_indexer(self, indexer_key_states: Tensor) -> Tensor:
        """Write ``(n, q, size)`` as keys are written; return a view, ``(n, limit, size)``."""
        cache = self._cache
        window, keys = cache.window, indexer_key_states[:, None]
        assert window is not None
        if window.copies:
            keys = window.as_queries(keys)
        if self.indexer_keys is None:
            shape = cache.rows, 1, cache.capacity + cache.scratch, keys.shape[-1]
            self.indexer_keys = zeros(keys, shape)
        write(self.indexer_keys, keys, window)
        return self.indexer_keys[window.rows, 0, : window.limit]

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values, and keys of the indexer, once there are any."""
        indexed = self.indexer_keys
        return super().tensors + ([] if indexed is None else [indexed])

    def grow(self, rows: int, tokens: int, kept: Sequence[slice]) -> None:
        super().grow(rows, tokens, kept)
        if self.indexer_keys is not None:
            self.indexer_keys = _grown(self.indexer_keys, rows, tokens, kept)


def write(kept: Tensor, new: Tensor, window: Window) -> None:
    """Write ``(n, heads, q, size)`` where a window says, of ``(rows, heads, capacity, size)``."""
    if window.same_length:
        kept[window.rows, :, window.limit - 1 : window.limit] = new
    elif window.start is not None:
        kept[window.rows, :, window.start : window.limit] = new
    else:
        where = window.cache_positions if window.writes is None else window.writes
        index, positions = window.index.to(kept.device), where.to(kept.device)
        kept[index, :, positions] = new.transpose(1, 2)


def zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of a tensor's dtype and device, ``(rows, heads, capacity, size)``.

    On a GPU a token's heads lie side by side.
    """
    if like.device.type == "cpu":
        return mapped_zeros(like, shape)
    rows, heads, capacity, size = shape
    return mapped_zeros(like, (rows, capacity, heads, size)).transpose(1, 2)


def _grown(old: Tensor, rows: int, capacity: int, kept: Sequence[slice]) -> Tensor:
    """A larger ``(rows, heads, capacity, size)`` tensor with what another holds."""
    new = zeros(old, (rows, old.shape[1], capacity, old.shape[3]))
    new[tuple(kept)] = old[tuple(kept)]
    return new
