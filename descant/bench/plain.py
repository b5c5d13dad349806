"""The same models in plain transformers, for comparison. Nothing here uses descant.

``Fusion`` and ``Rerank`` are today's way: logits processors in ``generate`` that run the other
models. The bare loops are the forwards alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)


class Fusion(LogitsProcessor):
    """Adds other models' log-probabilities to those of the one that generates.

    Args:
        models: each with its coefficient and a cache of its own.
        mask: ``(batch, L)``, 1 where a prompt's token is one, for prompts padded on the left.
    """

    def __init__(self, models: Sequence[tuple[Any, float]], mask: Tensor | None = None) -> None:
        self._models = [(model, by, DynamicCache(config=model.config)) for model, by in models]
        self._read, self._mask = 0, mask

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``(batch, L)`` ids and ``(batch, V)`` logits to the sum's scores."""
        total, fresh = torch.log_softmax(scores.float(), -1), input_ids[:, self._read :]
        options: dict[str, Any] = {}
        if self._mask is not None:
            new = input_ids.shape[1] - self._mask.shape[1]
            self._mask = torch.nn.functional.pad(self._mask, (0, new), value=1)
            positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, self._read :]
            options = {"attention_mask": self._mask, "position_ids": positions}
        self._read = input_ids.shape[1]
        for model, by, cache in self._models:
            logits = model(fresh, past_key_values=cache, use_cache=True, **options).logits[:, -1]
            total = total + by * torch.log_softmax(logits.float(), -1)
        return total


class Rerank(LogitsProcessor):
    """ARGS as published: the reward model reads each candidate's full text at every token."""

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


class First(StoppingCriteria):
    """Calls a function after the first token, and stops nothing."""

    def __init__(self, started: Callable[[], None]) -> None:
        self._started: Callable[[], None] | None = started

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        if self._started is not None:
            self._started()
            self._started = None
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _nothing() -> None:
    pass


def generate(
    base: Any,
    prompts: Tensor,
    new: int,
    others: Sequence[tuple[Any, float]] = (),
    rerank: tuple[Any, int, float] | None = None,
    mask: Tensor | None = None,
    started: Callable[[], None] = _nothing,
) -> Tensor:
    """``(batch, L)`` prompts to ``(batch, new)`` greedy tokens, through transformers' generate.

    Args:
        others: models that are added, each with its coefficient.
        rerank: a reward model, its candidates and its weight.
        mask: ``(batch, L)``, 1 where a prompt's token is one, for prompts padded on the left.
        started: called after the first token.
    """
    processors = LogitsProcessorList([Fusion(others, mask)] if others else [])
    if rerank is not None:
        processors.append(Rerank(*rerank))
    out = base.generate(
        prompts, attention_mask=torch.ones_like(prompts) if mask is None else mask,
        max_new_tokens=new, min_new_tokens=new, do_sample=False, logits_processor=processors,
        pad_token_id=0, stopping_criteria=StoppingCriteriaList([First(started)]),
    )  # fmt: skip
    return out[:, prompts.shape[1] :]  # type: ignore[no-any-return]


@torch.no_grad()
def decode(model: Any, prompts: Tensor, new: int, started: Callable[[], None] = _nothing) -> Tensor:
    """The bare loop: ``(batch, new)`` greedy tokens of one model."""
    cache = DynamicCache(config=model.config)
    tokens, out = prompts, []
    for i in range(new):
        logits = model(input_ids=tokens, past_key_values=cache, use_cache=True).logits[:, -1]
        tokens = logits.argmax(-1, keepdim=True)
        out.append(tokens)
        if i == 0:
            started()
    return torch.cat(out, dim=1)


@torch.no_grad()
def candidate_forwards(
    model: Any, prompts: Tensor, new: int, k: int, started: Callable[[], None] = _nothing
) -> None:
    """The forwards of reranking: ``k`` tokens a step, over a cache that grows by one."""
    cache = DynamicCache(config=model.config)
    backbone = model.base_model
    backbone(input_ids=prompts, past_key_values=cache, use_cache=True)
    candidates = torch.arange(1, k + 1, device=prompts.device).expand(prompts.shape[0], k)
    for i in range(new):
        out = backbone(input_ids=candidates, past_key_values=cache, use_cache=True)
        model.score(out.last_hidden_state)
        if k > 1:
            cache.crop(1 - k)
        if i == 0:
            started()
