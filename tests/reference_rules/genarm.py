"""GenARM (Xu et al., ICLR 2025): pi(y_t) is proportional to pi_base(y_t) * prod_i pi_i(y_t)^a_i."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .plain import ends, logprobs


def scores(base: Any, arms: Sequence[tuple[Any, float]], text: Sequence[int]) -> Tensor:
    """``(V,)``: log pi_base + sum_i a_i log pi_i."""
    total = logprobs(base, text)
    for arm, weight in arms:
        total = total + weight * logprobs(arm, text)
    return total


def greedy(
    base: Any,
    arms: Sequence[tuple[Any, float]],
    prompt: Sequence[int],
    most: int,
    eos: int | None,
) -> list[int]:
    """The most likely token at each step."""
    made: list[int] = []
    while True:
        token = int(scores(base, arms, [*prompt, *made]).argmax())
        made.append(token)
        if ends(token, made, eos, most):
            return made
