"""ARGS (Khanov et al., ICLR 2024), Algorithm 1: score(v) = LM(v | x) + w * r([x, v])."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .plain import ends, logprobs, reward

Judge = Callable[[Sequence[int]], float]


def candidates(lm: Tensor, judge: Judge, text: Sequence[int], k: int, w: float) -> dict[int, float]:
    """The k best tokens of the language model and their scores."""
    best = torch.topk(lm, k).indices.tolist()
    return {token: lm[token].item() + w * judge([*text, token]) for token in best}


def greedy(
    base: Any,
    reward_model: Any,
    prompt: Sequence[int],
    k: int,
    w: float,
    most: int,
    eos: int | None,
) -> list[int]:
    """The candidate with the best score at each step."""
    made: list[int] = []
    while True:
        text = [*prompt, *made]
        found = candidates(logprobs(base, text), lambda ids: reward(reward_model, ids), text, k, w)
        token = max(found, key=lambda one: found[one])
        made.append(token)
        if ends(token, made, eos, most):
            return made
