"""What ours is measured against: the same models in plain transformers, the way it is done today.

No descant in here. Every loop is greedy, with transformers' own cache, and ends after `new` tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers import LlamaForSequenceClassification as Classifier

SHAPE: dict[str, Any] = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "eos_token_id": None,
}


def language_model(seed: int) -> Any:
    """A random Llama of hidden 512, 8 layers, vocabulary 32000; it never ends a text."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    model.generation_config.eos_token_id = None
    return model


def reward_model(seed: int) -> Any:
    """A classifier with one label on the same shape."""
    torch.manual_seed(seed)
    return Classifier(LlamaConfig(**SHAPE, num_labels=1)).eval()


@torch.no_grad()
def decode(model: Any, prompts: Tensor, new: int) -> Tensor:
    """The bare loop: `(batch, new)` greedy tokens of one model."""
    cache = DynamicCache(config=model.config)
    tokens, out = prompts, []
    for _ in range(new):
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=True).logits[:, -1]
        tokens = logits.argmax(-1, keepdim=True)
        out.append(tokens)
    return torch.cat(out, dim=1)


@torch.no_grad()
def candidate_forwards(model: Any, prompts: Tensor, new: int, k: int) -> None:
    """The floor of reranking: a forward of `k` tokens a step, over a cache that grows by one."""
    cache = DynamicCache(config=model.config)
    backbone = model.model
    backbone(input_ids=prompts, past_key_values=cache, use_cache=True)
    candidates = torch.arange(1, k + 1).expand(prompts.shape[0], k)
    for _ in range(new):
        model.score(
            backbone(input_ids=candidates, past_key_values=cache, use_cache=True).last_hidden_state
        )
        cache.crop(-(k - 1))


@torch.no_grad()
def stepper(model: Any, prompts: Tensor, width: int = 1) -> Callable[[], Any]:
    """One forward of `width` tokens a row after the prompts, again and again over one cache."""
    cache = DynamicCache(config=model.config)
    network = model if hasattr(model, "lm_head") else model.model
    network(input_ids=prompts, past_key_values=cache, use_cache=True)

    def step() -> Any:
        out = network(input_ids=prompts[:, :width], past_key_values=cache, use_cache=True)
        cache.crop(-width)
        return out.logits if network is model else model.score(out.last_hidden_state)

    return torch.no_grad()(step)


@torch.no_grad()
def rerank_from_scratch(
    base: Any, reward: Any, prompt: Tensor, new: int, k: int, w: float
) -> list[int]:
    """ARGS as published: every candidate's whole text through the reward model, at every step."""
    text = prompt
    for _ in range(new):
        best = base(input_ids=text).logits[:, -1].topk(k)
        texts = torch.cat((text.expand(k, -1), best.indices.T), dim=1)
        hidden = reward.model(input_ids=texts).last_hidden_state
        scores = best.values[0] + w * reward.score(hidden[:, -1])[:, 0]
        text = torch.cat((text, best.indices[:, scores.argmax(), None]), dim=1)
    return text[0, prompt.shape[1] :].tolist()
