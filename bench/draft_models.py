"""Models whose drafts agree as often as is asked for: random weights, and small changes to them.

A random model draws from nearly all tokens alike. Here its head is scaled, so that the next token
has about ``ENTROPY`` nats, as text has. An arm is the base with every weight changed a little; a
larger model is a smaller one with further layers whose output projections are scaled near zero.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

SMALL = {
    "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 4096,
}  # fmt: skip
TINY = SMALL | {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4,
}  # fmt: skip
SPREAD = 4.0  # the standard deviation of logits: about three nats at 32,000 tokens


def config(sizes: dict[str, int], **more: Any) -> LlamaConfig:
    """A configuration of a model that never ends a text."""
    return LlamaConfig(**(sizes | more), eos_token_id=None, tie_word_embeddings=False)


def language_model(sizes: dict[str, int], seed: int) -> Any:
    """Random weights; what it draws next depends on the text, and is neither certain nor flat."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(sizes)).eval()
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        head = model.lm_head.weight
        head.mul_(SPREAD / (head.std() * sizes["hidden_size"] ** 0.5))
    return model


def arm(base: Any, change: float, seed: int) -> Any:
    """A copy with each matrix changed at random, by this share of its standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(base)
    with torch.no_grad():
        for weight in changed.parameters():
            if weight.dim() == 2:
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise, alpha=change * float(weight.std()))
    return changed


def deeper(model: Any, layers: int, scale: float, seed: int) -> Any:
    """The same with further layers, whose output projections are scaled so that they say little."""
    torch.manual_seed(seed)
    larger = copy.deepcopy(model)
    settings = copy.deepcopy(model.config)
    settings.num_hidden_layers = layers
    larger.config.num_hidden_layers = layers
    kind = type(model.model.layers[0])
    with torch.no_grad():
        for number in range(len(model.model.layers), layers):
            layer = kind(settings, number)
            for linear in layer.modules():
                if isinstance(linear, nn.Linear):
                    linear.weight.normal_(std=settings.initializer_range)
            layer.self_attn.o_proj.weight.mul_(scale)
            layer.mlp.down_proj.weight.mul_(scale)
            larger.model.layers.append(layer)
    return larger.eval()


def reward_model(sizes: dict[str, int], spread: float, seed: int) -> Any:
    """A classifier with one label, whose rewards of the candidates differ by about ``spread``."""
    torch.manual_seed(seed)
    model = LlamaForSequenceClassification(config(sizes, num_labels=1, pad_token_id=0)).eval()
    with torch.no_grad():
        head = model.score.weight
        head.mul_(spread / (head.std() * sizes["hidden_size"] ** 0.5))
    return model


def bytes_per_step(model: Any) -> int:
    """Bytes of the weights that a step reads: all but the embeddings."""
    own = sum(weight.nbytes for weight in model.parameters())
    return own - int(model.get_input_embeddings().weight.nbytes)


def layers_for(sizes: dict[str, int], times: float) -> int:
    """Layers with which a step reads so many times the weights."""
    hidden = sizes["hidden_size"]
    layer = 4 * hidden**2 + 3 * hidden * sizes["intermediate_size"] + 2 * hidden
    head = sizes["vocab_size"] * hidden
    return round((times * (sizes["num_hidden_layers"] * layer + head) - head) / layer)
