"""A key/value cache whose rows have lengths of their own, under transformers' Cache contract.

Keys and values are written at each row's own positions and read as views: nothing is copied, and
nothing is concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(frozen=True)
class Window:
    """Where one forward writes, and how much of the cache it may see.

    Attributes:
        rows: the rows of this forward, ``n`` of them side by side.
        index: ``(n, 1)`` their numbers.
        slots: ``(n, q)`` the position in the cache of each query's key and value.
        limit: the forward sees positions 0 up to ``limit``.
    """

    rows: slice
    index: Tensor
    slots: Tensor
    limit: int


class RowLayer(CacheLayerMixin):
    """One layer's keys and values, ``(rows, heads, capacity, size)`` each."""

    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the shapes from the first keys and values; masked places must be finite: zeros."""
        shape = (self._cache.rows, key_states.shape[1], self._cache.capacity)
        self.keys = key_states.new_zeros(*shape, key_states.shape[-1])
        self.values = value_states.new_zeros(*shape, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write ``(n, heads, q, size)`` at the window's slots; return views up to its limit."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._cache.window
        assert self.keys is not None and self.values is not None and window is not None
        index, slots = window.index.to(self.keys.device), window.slots.to(self.keys.device)
        self.keys[index, :, slots] = key_states.transpose(1, 2)
        self.values[index, :, slots] = value_states.transpose(1, 2)
        view = (window.rows, slice(None), slice(window.limit))
        return self.keys[view], self.values[view]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a forward sees, and the first of them."""
        return (self._cache.window.limit if self._cache.window else query_length), 0

    def get_seq_length(self) -> int:
        """Not one number here: rows differ. Models are given positions and masks instead."""
        return 0

    def get_max_length(self) -> int:
        """Tokens that a row can hold."""
        return self._cache.capacity


class RowCache(Cache):
    """The cache of one lane: ``rows`` rows of ``capacity`` tokens."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity = rows, capacity
        self.window: Window | None = None
        super().__init__(layer_class_to_replicate=lambda: RowLayer(self))

    def grow(self, capacity: int) -> None:
        """Make room for longer rows, layer by layer, and keep what is cached."""
        more = (0, 0, 0, capacity - self.capacity)
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = pad(layer.keys, more), pad(layer.values, more)
        self.capacity = capacity

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` tokens of a row over another."""
        for tensor in self._tensors():
            tensor[target, :, :length] = tensor[source, :, :length]

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Make the first ``length`` tokens of each target row what its source's were."""
        for tensor in self._tensors():
            tensor[list(targets), :, :length] = tensor[list(sources), :, :length]

    def move_tokens(self, index: Tensor, source: Tensor, target: Tensor) -> None:
        """Copy one token of each row, from position ``(n, 1)`` to position ``(n, 1)``."""
        for tensor in self._tensors():
            at = (index.to(tensor.device), slice(None))
            tensor[(*at, target.to(tensor.device))] = tensor[(*at, source.to(tensor.device))]

    @property
    def nbytes(self) -> int:
        """Bytes that are allocated."""
        return sum(tensor.nbytes for tensor in self._tensors())

    def _tensors(self) -> list[Tensor]:
        pairs = ((layer.keys, layer.values) for layer in self.layers)
        return [tensor for pair in pairs for tensor in pair if tensor is not None]


def rounded(length: int, capacity: int) -> int:
    """The part of a cache that a forward over ``length`` tokens sees: few sizes, few kernels.

    At most an eighth more than it needs, or 31 tokens.
    """
    unit = max(32, 1 << max(length - 1, 0).bit_length() >> 4)
    return min(capacity, -(-length // unit) * unit)
