"""What ours is measured against: the same models in plain transformers. No descant in here.

``Fusion`` and ``Rerank`` are the way that it is done today: logits processors in ``generate`` that
run the other models, one prompt at a time or a batch of equal length. The bare loops are the
forwards and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList


class Fusion(LogitsProcessor):
    """Adds other models' log-probabilities to those of the one that generates.

    Args:
        models: each with its coefficient and a cache of its own.
    """

    def __init__(self, models: Sequence[tuple[Any, float]]) -> None:
        self._models = [(model, by, DynamicCache(config=model.config)) for model, by in models]
        self._read = 0

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``(batch, L)`` ids and ``(batch, V)`` logits to the sum's scores."""
        total, fresh = torch.log_softmax(scores.float(), -1), input_ids[:, self._read :]
        self._read = input_ids.shape[1]
        for model, by, cache in self._models:
            logits = model(fresh, past_key_values=cache, use_cache=True).logits[:, -1]
            total = total + by * torch.log_softmax(logits.float(), -1)
        return total


class Rerank(LogitsProcessor):
    """ARGS as published: each candidate's whole text through the reward model, at every token."""

    def __init__(self, reward: Any, k: int, w: float) -> None:
        self._reward, self._k, self._w = reward, k, w

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``(batch, L)`` ids and ``(batch, V)`` scores to those of the candidates alone."""
        best = scores.topk(self._k)
        texts = input_ids[:, None].expand(-1, self._k, -1)
        texts = torch.cat((texts, best.indices[..., None]), -1).flatten(0, 1)
        hidden = self._reward.base_model(input_ids=texts).last_hidden_state[:, -1]
        rewards = self._reward.score(hidden).float().view(best.values.shape)
        out = torch.full_like(scores, -torch.inf)
        return out.scatter(1, best.indices, best.values + self._w * rewards)


def generate(
    base: Any,
    prompts: Tensor,
    new: int,
    others: Sequence[tuple[Any, float]] = (),
    rerank: tuple[Any, int, float] | None = None,
) -> Tensor:
    """``(batch, L)`` prompts to ``(batch, new)`` greedy tokens, through transformers' generate."""
    processors = LogitsProcessorList([Fusion(others)] if others else [])
    if rerank is not None:
        processors.append(Rerank(*rerank))
    out = base.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, min_new_tokens=new,
        do_sample=False, logits_processor=processors, pad_token_id=0,
    )  # fmt: skip
    return out[:, prompts.shape[1] :]  # type: ignore[no-any-return]


@torch.no_grad()
def decode(model: Any, prompts: Tensor, new: int) -> Tensor:
    """The bare loop: ``(batch, new)`` greedy tokens of one model."""
    cache = DynamicCache(config=model.config)
    tokens, out = prompts, []
    for _ in range(new):
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=True).logits[:, -1]
        tokens = logits.argmax(-1, keepdim=True)
        out.append(tokens)
    return torch.cat(out, dim=1)


@torch.no_grad()
def candidate_forwards(model: Any, prompts: Tensor, new: int, k: int) -> None:
    """What reranking must read: a forward of ``k`` tokens a step, over a cache that grows by one.

    Args:
        model: the reward model.
        prompts: ``(batch, L)``.
        new: steps.
        k: candidates.
    """
    cache = DynamicCache(config=model.config)
    backbone = model.base_model
    backbone(input_ids=prompts, past_key_values=cache, use_cache=True)
    candidates = torch.arange(1, k + 1, device=prompts.device).expand(prompts.shape[0], k)
    for _ in range(new):
        out = backbone(input_ids=candidates, past_key_values=cache, use_cache=True)
        model.score(out.last_hidden_state)
        cache.crop(-(k - 1))
