"""Weak to strong (emulated fine-tuning, proxy tuning): log p_strong + b (log p_tuned - log p_weak).

The three models may have any sizes, and each may read a prompt of its own: the same sum with one
model in every place is classifier-free guidance, and with a prompt left out context-aware decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .plain import ends, logprobs


def greedy(
    strong: Any,
    tuned: Any,
    weak: Any,
    prompt: Sequence[int],
    b: float,
    most: int,
    eos: int | None,
) -> list[int]:
    """The best token of the shifted strong model at each step."""
    return greedy_sum([(strong, prompt, 1.0), (tuned, prompt, b), (weak, prompt, -b)], most, eos)


def greedy_sum(
    voices: Sequence[tuple[Any, Sequence[int], float]], most: int, eos: int | None
) -> list[int]:
    """The best token of a weighted sum in which each model continues a prompt of its own."""
    made: list[int] = []
    while True:
        parts = [weight * logprobs(model, [*prompt, *made]) for model, prompt, weight in voices]
        token = int(sum(parts[1:], parts[0]).argmax())
        made.append(token)
        if ends(token, made, eos, most):
            return made
