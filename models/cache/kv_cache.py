"""A key/value cache whose rows have lengths of their own, under transformers' Cache contract.

Keys and values are written at each row's own positions and read as views: nothing is copied, and
nothing is concatenated.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from .masks import row_masks
from .memory import mapped_zeros
from .survey import LayerShape, Survey
from .window import Window


class RowLayer(CacheLayerMixin):
    """One layer's keys and values, ``(rows, heads, capacity, size)`` each."""

    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
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
        """Write ``(n, heads, q, size)`` as the window says; return views up to its limit."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._cache.window
        assert self.keys is not None and self.values is not None and window is not None
        if window.same_length:
            last = slice(window.limit - 1, window.limit)
            self.keys[window.rows, :, last] = key_states
            self.values[window.rows, :, last] = value_states
        elif window.start is not None:
            chunk = slice(window.start, window.limit)
            self.keys[window.rows, :, chunk] = key_states
            self.values[window.rows, :, chunk] = value_states
        else:
            device = self.keys.device
            where = window.cache_positions if window.writes is None else window.writes
            index, positions = window.index.to(device), where.to(device)
            self.keys[index, :, positions] = key_states.transpose(1, 2)
            self.values[index, :, positions] = value_states.transpose(1, 2)
        view = (window.rows, slice(None), slice(window.limit))
        return self.keys[view], self.values[view]

    @property
    def shape(self) -> LayerShape:
        """Heads and their sizes, once there are keys."""
        assert self.keys is not None and self.values is not None
        return LayerShape(self.keys.shape[1], self.keys.shape[3], self.values.shape[3])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (self._cache.window.limit if self._cache.window else query_length), 0

    def get_seq_length(self) -> int:
        """0: rows have lengths of their own, and models get positions and masks."""
        return 0

    def get_max_length(self) -> int:
        return self._cache.capacity


class RowCache(Cache):
    """The cache of one lane: ``rows`` rows of ``capacity`` tokens.

    Attributes:
        scratch: positions at the end of each row, for the keys and values of idle rows.
        window: of the forward that runs, or ran last.
        written: rows and tokens, the most that were written to since the cache was empty.
    """

    def __init__(self, rows: int, capacity: int, scratch: int = 0) -> None:
        self.rows, self.capacity, self.scratch = rows, capacity, scratch
        self.window: Window | None = None
        self.written = (0, 0)
        # Layers hold a weak reference, so that a cache is freed at once, without a reference cycle.
        cache: Any = weakref.proxy(self)
        super().__init__(layer_class_to_replicate=lambda: RowLayer(cache))

    def see(self, window: Window) -> None:
        """The next forward writes and reads as this window says."""
        self.window = window
        self.wrote(window.rows.stop, window.limit)

    def make_layers(self, shapes: Sequence[LayerShape], like: Tensor) -> None:
        """Make the layers before a forward does, of a tensor's dtype and device."""
        for shape in shapes[len(self.layers) :]:
            cache: Any = weakref.proxy(self)
            layer = RowLayer(cache)
            sizes = shape.key_size, shape.value_size
            layer.lazy_initialization(*(like.new_empty(0, shape.groups, 0, n) for n in sizes))
            self.layers.append(layer)

    def grow(self, capacity: int, rows: int = 0) -> None:
        """Make room for so many tokens and rows, and keep those there are."""
        self.rows, self.capacity = max(rows, self.rows), capacity
        kept = self._written()
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                tokens = capacity + self.scratch
                layer.keys = _grown(layer.keys, self.rows, tokens, kept)
                layer.values = _grown(layer.values, self.rows, tokens, kept)

    def release(self, row: int, last: int, length: int) -> None:
        """Give a row up: the first ``length`` tokens of the last row move into its place.

        The last row becomes zeros: masked keys and values must be finite.
        """
        written = self.written[1]
        for tensor in self._tensors():
            if row != last:
                tensor[row, :, :length] = tensor[last, :, :length]
                tensor[row, :, length:written] = 0
            tensor[last, :, :written] = 0

    def clear(self) -> None:
        """Without rows: a CPU gets the memory back. On a GPU, graphs hold its addresses."""
        if all(tensor.device.type == "cpu" for tensor in self._tensors()):
            self.layers.clear()  # transformers makes them anew
            self.written = (0, 0)

    def copy_rows(self, sources: Sequence[int], targets: Sequence[int], length: int) -> None:
        """Make the first ``length`` tokens of each target row what its source's were."""
        self.wrote(max(targets, default=-1) + 1, length)
        for tensor in self._tensors():
            tensor[list(targets), :, :length] = tensor[list(sources), :, :length]

    def move_tokens(self, index: Tensor, source: Tensor, target: Tensor) -> None:
        """Copy one token of each row, from position ``(n, 1)`` to position ``(n, 1)``."""
        for tensor in self._tensors():
            at = (index.to(tensor.device), slice(None))
            tensor[(*at, target.to(tensor.device))] = tensor[(*at, source.to(tensor.device))]

    @property
    def nbytes(self) -> int:
        """Bytes in use. Of a CPU's memory, those that were written to: no other has pages."""
        written = self._written()
        return sum(
            tensor[written].nbytes if tensor.device.type == "cpu" else tensor.nbytes
            for tensor in self._tensors()
        )

    def wrote(self, rows: int, tokens: int) -> None:
        """So many rows and tokens may have been written to."""
        self.written = max(self.written[0], rows), max(self.written[1], tokens)

    def _written(self) -> tuple[slice, slice, slice]:
        """Where keys and values were written to."""
        return slice(self.written[0]), slice(None), slice(self.written[1])

    def _tensors(self) -> list[Tensor]:
        pairs = ((layer.keys, layer.values) for layer in self.layers)
        return [tensor for pair in pairs for tensor in pair if tensor is not None]


def zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Zeros of a tensor's dtype and device, ``(rows, heads, capacity, size)``.

    On a GPU a token's heads lie side by side.
    """
    if like.device.type == "cpu":
        return mapped_zeros(like, shape)
    rows, heads, capacity, size = shape
    return mapped_zeros(like, (rows, capacity, heads, size)).transpose(1, 2)


def _grown(old: Tensor, rows: int, capacity: int, kept: tuple[slice, slice, slice]) -> Tensor:
    """A larger ``(rows, heads, capacity, size)`` tensor with what another holds."""
    new = zeros(old, (rows, old.shape[1], capacity, old.shape[3]))
    new[kept] = old[kept]
    return new


def run_rows(
    network: Any,
    cache: Any,
    window: Window,
    tokens: Tensor,
    positions: Tensor,
    **options: Any,
) -> Any:
    """One forward of some rows of a cache, under transformers' contract.

    Args:
        network: the model, or its backbone.
        window: where this forward writes, and what it may see.
        tokens: ``(n, q)`` ids.
        positions: ``(n, q)`` in the text.
        options: more arguments of the network's.
    """
    cache.see(window)
    with row_masks(positions, window):
        return network(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=tokens.new_ones(len(tokens), window.limit, dtype=torch.bool),
            past_key_values=cache,
            use_cache=True,
            **options,
        )


def surveyed(model: Any, dtype: torch.dtype) -> tuple[int, Survey]:
    """Bytes of cache that one token of one row takes; and what the model asks of attention.

    The model's own code reads one token on torch's meta device, without weights. Where that fails
    part of the way (some experts do), the layers that ran stand for the others.
    """
    for make_backbone in _backbones(model, dtype):
        cache, survey = RowCache(1, 1), Survey()
        try:
            with torch.no_grad():
                token = torch.zeros(1, 1, dtype=torch.long, device="meta")
                window = Window(token, 1, slice(0, 1), token, survey=survey)
                run_rows(make_backbone(), cache, window, token, token)
            survey.shapes = [layer.shape for layer in cache.layers]
            return cache.nbytes, survey
        except (RuntimeError, ValueError, TypeError, AttributeError):
            continue
    config = model.config.get_text_config()
    if measured := sum(layer.is_initialized for layer in cache.layers):
        return int(cache.nbytes * config.num_hidden_layers // measured), survey
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * dtype.itemsize), survey


def _backbones(model: Any, dtype: torch.dtype) -> list[Callable[[], Any]]:
    """Ways to make the backbone without its weights, the quickest first."""
    network = model.base_model

    def make(**options: Any) -> Any:
        with torch.device("meta"):
            config = copy.deepcopy(model.config)
            return type(network)._from_config(config, dtype=dtype, **options).eval()

    ways: list[Callable[[], Any]] = [partial(make, experts_implementation="batched_mm"), make]
    return [lambda: network, *ways] if network.device.type == "meta" else ways


def rounded(length: int, capacity: int) -> int:
    """The part of a cache that a forward over ``length`` tokens sees: few sizes, few kernels.

    At most an eighth more than it needs, or 31 tokens.
    """
    unit = max(32, 1 << max(length - 1, 0).bit_length() >> 4)
    return min(capacity, -(-length // unit) * unit)
