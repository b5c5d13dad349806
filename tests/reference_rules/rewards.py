"""Rules that ask a reward model about candidates: ARGS and its kin (args.py has Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .plain import logprobs

Text = Sequence[int]
Judge = Callable[[Text], float]


def args(lm: Tensor, judge: Judge, text: Text, k: int, w: float) -> Tensor:
    """score(v) = LM(v | x) + w r([x, v]) on the k best, and nothing else."""
    out = torch.full_like(lm, -math.inf)
    for token in torch.topk(lm, k).indices.tolist():
        out[token] = lm[token] + w * judge([*text, token])
    return out


def rad(base: Any, judge: Judge, text: Text, k: int, beta: float, lo: float, hi: float) -> Tensor:
    """Deng and Raffel 2023: z(v) + beta clamp(r, lo, hi) on the k best."""
    return args(logprobs(base, text), lambda one: min(max(judge(one), lo), hi), text, k, beta)


def value_augmented(base: Any, value: Judge, text: Text, k: int, beta: float) -> Tensor:
    """Han et al. 2024: z(v) + beta (V([x, v]) - mean V) on the k best; the others stay."""
    lp = logprobs(base, text)
    best = torch.topk(lp, k).indices.tolist()
    values = [value([*text, token]) for token in best]
    out = lp.clone()
    for token, one in zip(best, values, strict=True):
        out[token] = lp[token] + beta * (one - sum(values) / k)
    return out


def partial(base: Any, judge: Judge, text: Text, k: int, w: float) -> Tensor:
    """PARGS, Rashid et al. 2024: the k best renormalised, and then w r([x, v])."""
    lp = logprobs(base, text)
    best = torch.topk(lp, k).indices
    out = torch.full_like(lp, -math.inf)
    for token, value in zip(best.tolist(), torch.log_softmax(lp[best], -1).tolist(), strict=True):
        out[token] = value + w * judge([*text, token])
    return out
