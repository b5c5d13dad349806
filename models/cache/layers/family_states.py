"""Families whose code keeps states in places of its own: what it finds there, and what it leaves.

transformers gives most families a layer of its cache for states. MiniMax asks a cache of its own
class for them, and RecurrentGemma's modules hold them themselves. Here both get the states of the
rows of a forward, as views, and what they leave goes to where the layers keep states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache as kept
from typing import Any, TypeAlias

from torch import Tensor

from .states import StateLayer

During: TypeAlias = Callable[[Any, Any], AbstractContextManager[Any]]


@kept
def _minimax_cache() -> type:
    """The class of a cache of rows that MiniMax's code takes for its own."""
    from transformers.models.minimax.modeling_minimax import MiniMaxCache

    class RowsOfMiniMax(MiniMaxCache):
        def __init__(self, layers: Any) -> None:
            super().__init__()
            self.layers = layers

        def get_linear_cache(self, layer_idx: int) -> Tensor | None:
            layer = self.layers[layer_idx]
            return layer.recurrent_states[0] if layer.has_previous_state[0] else None

        def set_linear_cache(self, layer_idx: int, linear_cache: Tensor) -> None:
            _leave(self.layers[layer_idx], recurrent_states=linear_cache)

    return RowsOfMiniMax


@contextmanager
def _in_its_class(network: Any, cache: Any) -> Iterator[Any]:
    yield _minimax_cache()(cache.layers)


@contextmanager
def _in_modules(network: Any, cache: Any) -> Iterator[Any]:
    """The blocks of RecurrentGemma hold the states of the rows meanwhile, and nothing after."""
    blocks = [module for module in network.modules() if hasattr(module, "conv1d_state")]
    layers = [layer for layer in cache.layers if isinstance(layer, StateLayer)]
    pairs = [*zip(blocks, layers, strict=True)]
    try:
        for block, layer in pairs:
            if layer.has_previous_state[0]:
                block.conv1d_state = layer.conv_states[0]
                block.rg_lru.recurrent_states = layer.recurrent_states[0]
        yield cache
        for block, layer in pairs:
            states = block.conv1d_state, block.rg_lru.recurrent_states
            _leave(layer, conv_states=states[0], recurrent_states=states[1])
    finally:
        for block, _ in pairs:
            block.conv1d_state = block.rg_lru.recurrent_states = None


def _leave(layer: StateLayer, **states: Tensor) -> None:
    """Have a layer's rows of this forward go on from these states, by their kinds."""
    lacking: dict[str, Any] = {k: new for k, new in states.items() if (k, 0) not in layer.pools}
    if lacking:
        layer.lazy_initialization(**lacking)
    for kind, new in states.items():
        getattr(layer, kind)[0].copy_(new)


_FAMILIES: Mapping[str, During] = {"minimax": _in_its_class, "recurrent_gemma": _in_modules}


def during(network: Any, cache: Any) -> AbstractContextManager[Any]:
    """A context in which a network's forward takes what this gives for its cache."""
    model_type = network.config.get_text_config().model_type
    own = _FAMILIES.get(model_type)
    return nullcontext(cache) if own is None else own(network, cache)
