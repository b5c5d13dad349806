"""The layers of every family, by what comes out of them: transformers' own hidden states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_architectures as families
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from descant import ModelError
from descant.models.adapters.decoder_layers import decoder_layers, layer_outputs

IDS = torch.tensor([[1, 5, 7, 9, 11, 13]])
SEVERAL = {"gemma3n_text", "hy_v4"}  # streams between their layers, or keys chosen by the last


def states(model: Any, layers: list[int]) -> tuple[dict[int, Tensor], Any]:
    """What comes out of layers, and what transformers says of the same forward."""
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), layer_outputs("base", model, layers, seen.__setitem__):
        found = model(input_ids=IDS, output_hidden_states=True, use_cache=False)
    return seen, found.hidden_states


@pytest.mark.parametrize("family", sorted(set(families.FAMILIES) - SEVERAL))
def test_a_layers_output_is_the_next_hidden_state(family: str) -> None:
    """But for the last, where transformers has a norm more."""
    model = families.model(family)
    layers = list(range(len(decoder_layers("base", model))))
    seen, hidden_states = states(model, layers)
    assert list(seen) == layers and len(hidden_states) == len(layers) + 1
    for layer in layers[:-1]:
        assert torch.equal(seen[layer], hidden_states[layer + 1])
    last, normed = seen[layers[-1]], hidden_states[-1]
    assert any(torch.equal(normed, norm(last)) for norm in norms(model)) or family == "opt"


def norms(model: Any) -> Iterator[Any]:
    """What may be between the last layer and ``hidden_states[-1]``."""
    yield lambda states: states
    for module in model.base_model.modules():
        if "norm" in type(module).__name__.lower():
            yield lambda states, module=module: normed(module, states)


def normed(module: nn.Module, states: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            return module(states)
    except (RuntimeError, TypeError):  # of another width
        return torch.zeros(())


def test_layers_with_several_streams_are_refused() -> None:
    model = families.model("gemma3n_text")
    with pytest.raises(ModelError, match="has layers with more than hidden states"):
        states(model, [0])


def test_a_model_with_two_stacks_is_refused() -> None:
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="base, a Pair, has 2 stacks of decoder"):
        decoder_layers("base", Pair(T5ForConditionalGeneration(config).encoder))


class Pair(nn.Module):
    """One stack twice."""

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.one, self.two = stack, stack.__class__(stack.config)

    @property
    def base_model(self) -> nn.Module:
        return self


def test_a_layer_that_is_not_there_is_named_and_no_hook_stays() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2))
    with (
        pytest.raises(ModelError, match="base has no layer 2\nits 2 decoder layers count from 0"),
        layer_outputs("base", model, [0, 2], lambda layer, states: None),
    ):
        raise AssertionError
    with pytest.raises(KeyError), layer_outputs("base", model, [0, 1], lambda layer, states: None):
        raise KeyError
    assert not any(layer._forward_hooks for layer in decoder_layers("base", model))
