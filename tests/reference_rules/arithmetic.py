"""Language-model-arithmetic (Dekoninck et al., ICLR 2024), and self-debiasing as it writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .plain import logprobs

Text = Sequence[int]
Judge = Callable[[Text], float]


def weighted_mean(models: Sequence[Any], weights: Sequence[float], text: Text) -> Tensor:
    """log_softmax(sum_i w_i lp_i / sum_i w_i)."""
    total = sum(w * logprobs(m, text) for m, w in zip(models, weights, strict=True))
    return torch.log_softmax(total / sum(weights), -1)


def union(one: Any, two: Any, text: Text) -> Tensor:
    """Token by token the larger log-probability."""
    pairs = zip(logprobs(one, text).tolist(), logprobs(two, text).tolist(), strict=True)
    return torch.tensor([x if x > y else y for x, y in pairs])


def intersection(one: Any, two: Any, text: Text) -> Tensor:
    """Token by token the smaller log-probability."""
    pairs = zip(logprobs(one, text).tolist(), logprobs(two, text).tolist(), strict=True)
    return torch.tensor([x if x < y else y for x, y in pairs])


def and_a_union(base: Any, one: Any, two: Any, text: Text, weight: float) -> Tensor:
    """A model and a weighted union: base + w max(one, two)."""
    return logprobs(base, text) + weight * union(one, two, text)


def self_debiasing(model: Any, text: Text, biased: Text, strength: float) -> Tensor:
    """Schick et al. 2021: log_softmax(lp + strength * min(p - p_biased, 0))."""
    lp, other = logprobs(model, text), logprobs(model, biased)
    fall = [min(x - y, 0.0) for x, y in zip(lp.exp().tolist(), other.exp().tolist(), strict=True)]
    return torch.log_softmax(lp + strength * torch.tensor(fall), -1)


def classifier_guidance(
    base: Any, judge: Judge, text: Text, n: int, strength: float, prefix: bool
) -> Tensor:
    """lp + strength (log c([x, v]) - log c(x)) on the n best tokens; the others stay.

    Without the class of the text itself it is FUDGE (Yang and Klein 2021).
    """
    lp = logprobs(base, text)
    out = lp.clone()
    before = judge(text) if prefix else 0.0
    for token in torch.topk(lp, n).indices.tolist():
        out[token] = lp[token] + strength * (judge([*text, token]) - before)
    return out
