"""The decoder layers of a language model, and what comes out of them.

transformers' own ``hidden_states`` do not serve: their last entry is behind the final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..errors import ModelError

_CURE = "give a language model of transformers, with one stack of decoder layers"


def decoder_layers(name: str, model: Any) -> nn.ModuleList:
    """The decoder layers of a model, in their order.

    Raises:
        ModelError: it has no such layers, or several stacks of them.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    lists = [*_lists(decoder)] or [*_lists(model.base_model)]
    stacks = [stack for stack in lists if _is_stack(stack)]
    if not stacks:  # of code that came with a checkpoint, or older than that class
        count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        stacks = [stack for stack in lists if len(stack) == count]
    if len(stacks) != 1:
        problem = f"{name}, a {type(model).__name__}, has {len(stacks)} stacks of decoder layers"
        raise ModelError(problem, _CURE, name)
    return stacks[0]


@contextmanager
def layer_outputs(
    name: str, model: Any, layers: Sequence[int], take: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """Around a forward: see the hidden states that come out of some decoder layers.

    Args:
        layers: their numbers, counted from 0.
        take: is called with a layer's number and its output, ``(B, L, hidden)``.

    Raises:
        ModelError: no such layer, or, in the forward, an output of another shape.
    """
    stack = decoder_layers(name, model)
    if beyond := [layer for layer in layers if not 0 <= layer < len(stack)]:
        problem = f"{name} has no layer {beyond[0]}"
        raise ModelError(problem, f"its {len(stack)} decoder layers count from 0", name)

    def seen(layer: int, module: nn.Module, inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if not isinstance(states, Tensor) or states.dim() != 3:
            problem = f"{name}, a {type(model).__name__}, has layers with more than hidden states"
            raise ModelError(problem, _CURE, name)
        take(layer, states)

    hooks = [stack[layer].register_forward_hook(partial(seen, layer)) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    """The outermost lists of modules in a module."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _lists(child)


def _is_stack(modules: nn.ModuleList) -> bool:
    return bool(modules) and all(isinstance(each, GradientCheckpointingLayer) for each in modules)
