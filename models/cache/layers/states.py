"""A layer that keeps a state: what it has made of all that a row has read, under transformers'
contract.

A recurrent or convolutional state has one size, whatever the length of the text, and nothing can be
taken out of it again. Rows share it by copying.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import (
    CacheLayerMixin,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from ..memory import mapped_zeros
from ..window import Window
from .keys import IndexedRowLayer, RowLayer, RowsOfCache


class LayerKind(NamedTuple):
    """What one layer of a model keeps.

    Attributes:
        states: pairs of a convolutional and a recurrent state.
        by_position: whether it keeps keys and values, too.
        indexed: whether it keeps keys of an indexer, beside keys and values.
    """

    states: int = 0
    by_position: bool = True
    indexed: bool = False

    def make(self, cache: RowsOfCache) -> Any:
        """A layer of this kind."""
        if not self.states:
            return IndexedRowLayer(cache) if self.indexed else RowLayer(cache)
        kind = StateAndRowLayer if self.by_position else StateLayer
        return kind(cache, self.states)


def layer_kinds(config: Any) -> tuple[LayerKind, ...]:
    """What each layer of a model keeps, by transformers; empty where all keep keys and values."""
    try:
        layers = DynamicCache(config=config).layers
    except (AttributeError, KeyError, ValueError, TypeError):
        return ()  # of no layers that transformers knows a kind of
    kinds = tuple(map(_kind_of, layers))
    return kinds if any(kind != LayerKind() for kind in kinds) else ()


def has_states(config: Any) -> bool:
    """Whether any layer of a model of this configuration keeps a state."""
    return any(kind.states for kind in layer_kinds(config.get_text_config()))


def _kind_of(layer: Any) -> LayerKind:
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        return LayerKind(layer.number_of_states, isinstance(layer, CacheLayerMixin))
    return LayerKind(indexed=hasattr(layer, "update_indexer"))


class StateLayer(LinearAttentionLayer):
    """One layer's states, ``(rows, …)`` each.

    During a forward, transformers' code finds the states of its rows: views of them, which it
    writes, or copies, where what it writes is not, or not yet, the rows' own.

    Attributes:
        pools: the states of all rows, by ``conv_states`` or ``recurrent_states``, and number.
    """

    def __init__(self, cache: RowsOfCache, number_of_states: int = 1) -> None:
        LinearAttentionLayer.__init__(self, number_of_states=number_of_states)
        self._cache = cache
        self.pools: dict[tuple[str, int], Tensor] = {}

    def lazy_initialization(
        self,
        conv_states: Tensor | None = None,
        recurrent_states: Tensor | None = None,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
    ) -> None:
        """Take the shapes from the first states; zeros, as of rows that have read nothing."""
        if conv_states is not None:
            size = conv_kernel_size or conv_states.shape[-1]
            self.conv_kernel_size[state_idx] = size
            self._make(("conv_states", state_idx), conv_states, (*conv_states.shape[1:-1], size))
            self.is_conv_states_initialized[state_idx] = True
        if recurrent_states is not None:
            self._make(
                ("recurrent_states", state_idx), recurrent_states, recurrent_states.shape[1:]
            )
            self.is_recurrent_states_initialized[state_idx] = True

    def _make(self, key: tuple[str, int], like: Tensor, shape: tuple[int, ...]) -> None:
        self.dtype, self.device = like.dtype, like.device
        self.pools[key] = mapped_zeros(like, (self._cache.rows, *shape))
        if self._cache.window is not None:
            self._show(key, self._cache.window)

    def put(self, key: tuple[str, int], row: int, states: Tensor) -> None:
        """Have a row go on from states that another had, ``(…)``."""
        if key not in self.pools:
            kind, number = key
            if kind == "conv_states":
                self.conv_kernel_size[number] = states.shape[-1]
                self.is_conv_states_initialized[number] = True
            else:
                self.is_recurrent_states_initialized[number] = True
            self._make(key, states, tuple(states.shape))
        self.pools[key][row] = states

    def see(self, window: Window) -> None:
        """The next forward reads and writes the states of a window's rows."""
        for key in self.pools:
            self._show(key, window)
        known = bool(self.pools) and window.start != 0
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), known)

    def _show(self, key: tuple[str, int], window: Window) -> None:
        states = self.pools[key][window.rows]
        if window.copies:
            states = states.repeat_interleave(window.copies, dim=0)
        elif window.reads is not None:
            states = states.clone()
        getattr(self, key[0])[key[1]] = states

    def settle(self, window: Window) -> None:
        """After the forward: only the rows that read have other states now."""
        if window.reads is not None and not window.copies:
            for key, pool in self.pools.items():
                self._take(pool[window.rows], getattr(self, key[0])[key[1]], window)

    def choose(self, window: Window, choice: Tensor) -> None:
        """Make the states of one copy of each row its own: ``(n,)`` int64, of ``window.copies``."""
        for key, pool in self.pools.items():
            own = pool[window.rows]
            first = torch.arange(len(own), device=own.device) * window.copies
            written = getattr(self, key[0])[key[1]]
            self._take(own, written[first + choice.to(own.device)], window)

    @staticmethod
    def _take(own: Tensor, new: Tensor, window: Window) -> None:
        """Change the states of the rows that read."""
        if window.reads is not None:
            reads = window.reads.to(own.device).view(-1, *[1] * (own.dim() - 1))
            new = new.where(reads, own)
        own.copy_(new)

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values: none."""
        return []

    def grow(self, rows: int, tokens: int, kept: Any) -> None:
        """Make room for so many rows."""
        self.pools = {key: with_rows(pool, rows) for key, pool in self.pools.items()}


class StateAndRowLayer(StateLayer, RowLayer):
    """One layer's states, and its keys and values."""

    def __init__(self, cache: RowsOfCache, number_of_states: int = 1) -> None:
        RowLayer.__init__(self, cache)
        StateLayer.__init__(self, cache, number_of_states)

    def lazy_initialization(  # type: ignore[override]
        self, *keys_and_values: Tensor, **states: Any
    ) -> None:
        """Of keys and values, which transformers gives by place; or of states, by name."""
        if keys_and_values:
            RowLayer.lazy_initialization(self, *keys_and_values)
        else:
            StateLayer.lazy_initialization(self, **states)

    @property
    def tensors(self) -> list[Tensor]:
        """Keys and values, once there are any."""
        return [tensor for tensor in (self.keys, self.values) if tensor is not None]

    def grow(self, rows: int, tokens: int, kept: Any) -> None:
        RowLayer.grow(self, rows, tokens, kept)
        StateLayer.grow(self, rows, tokens, kept)

    def get_max_length(self) -> int:
        return RowLayer.get_max_length(self)


def with_rows(old: Tensor, rows: int) -> Tensor:
    """A larger ``(rows, …)`` tensor with what another holds."""
    new = mapped_zeros(old, (rows, *old.shape[1:]))
    new[: len(old)] = old
    return new
