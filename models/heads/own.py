"""The model's own norm and head on any of its decoder layers: early exit.

What runs behind the last decoder layer is seen in a trial, and so are the factors of the logits
that a configuration gives. On the last layer it gives the model's own logits, or it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..adapters.decoder_layers import decoder_layers, layer_outputs
from ..errors import ModelError
from ..eval_mode import evaluating

Apply: TypeAlias = Callable[[Tensor], Tensor]
TOKENS = 5
_FACTORS: dict[str, Callable[[Tensor, float], Tensor]] = {  # of logits, as configurations name them
    "logit_scale": lambda logits, by: logits * by,
    "logits_scaling": lambda logits, by: logits / by,
    "lm_head_multiplier": lambda logits, by: logits * by,
    "final_logit_softcapping": lambda logits, by: torch.tanh(logits / by) * by,
}


@torch.no_grad()
def trial(name: str, model: Any, layers: Sequence[int]) -> dict[int, Tensor]:
    """What decoder layers give in a short forward, ``(1, tokens, hidden)`` each.

    Raises:
        ModelError: no such layer, or one that gives more than hidden states.
    """
    states: dict[int, Tensor] = {}
    with evaluating(model.modules()), layer_outputs(name, model, layers, states.__setitem__):
        model(input_ids=_tokens(model), use_cache=False)
    return states


@torch.no_grad()
def own_head(name: str, model: Any) -> Apply:
    """The model's own norm and head: ``(…, hidden)`` of any layer to ``(…, V)`` logits.

    Raises:
        ModelError: on the last layer it does not give what the model gives.
    """
    last, calls = len(decoder_layers(name, model)) - 1, list[nn.Module]()
    states: dict[int, Tensor] = {}
    hooks = _watch(name, model, last, calls)
    try:
        with evaluating(model.modules()), layer_outputs(name, model, [last], states.__setitem__):
            expected = model(input_ids=_tokens(model), use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    config = model.config.get_text_config()
    factors = {key: getattr(config, key, None) for key in _FACTORS}
    apply = partial(_applied, calls, {key: by for key, by in factors.items() if by is not None})
    try:
        with evaluating(model.modules()):
            logits = apply(states[last])
        error = ((logits - expected).norm() / expected.norm()).item()
    except (TypeError, ValueError, RuntimeError, AttributeError):
        error = torch.inf
    if not error < (1e-4 if expected.dtype is torch.float32 else 2e-2):
        problem = f"{name} is the own head of a {type(model).__name__}, which does more between"
        cure = "give a head of its own, as a file or a module; or another base"
        raise ModelError(f"{problem} its last layer and its logits than its norm and head", cure)
    return apply


def _applied(modules: Sequence[nn.Module], factors: dict[str, float], states: Tensor) -> Tensor:
    for module in modules:
        states = module(states)
    for key, by in factors.items():
        states = _FACTORS[key](states, by)
    return states


def _watch(name: str, model: Any, last: int, calls: list[nn.Module]) -> list[Any]:
    """Note the modules that run after the last decoder layer, without those inside them."""
    stack = decoder_layers(name, model)
    around = {id(each) for each in model.modules() if any(m is stack for m in each.modules())}
    inside = {id(each) for each in stack.modules()}
    after, running, hooks = list[bool](), list[nn.Module](), list[Any]()

    def begins(module: nn.Module, *arguments: Any) -> None:
        if after and not running:
            calls.append(module)
        running.append(module)

    def ends(*arguments: Any) -> None:
        running.pop()

    for module in model.modules():
        if id(module) not in around | inside:
            hooks += [module.register_forward_pre_hook(begins), module.register_forward_hook(ends)]
    hooks.append(stack[last].register_forward_hook(lambda *arguments: after.append(True)))
    return hooks


def _tokens(model: Any) -> Tensor:
    """``(1, tokens)`` ids."""
    embedding = model.get_input_embeddings().weight
    device = embedding.device if embedding.device.type != "meta" else model.device
    return (torch.arange(TOKENS, device=device)[None] * 37 + 5) % len(embedding)
