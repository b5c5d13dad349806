"""A mixture by component, from its definition: plain Python, one text at a time, no cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from descant.runtime.scores.noise import seed_key

WORD = 0xFFFFFFFF
Voice = Callable[[Sequence[int]], torch.Tensor]  # a component's scores after so many tokens


def scrambled(x: int) -> int:
    """The finaliser of murmur3."""
    x ^= x >> 16
    x = x * 0x85EBCA6B & WORD
    x ^= x >> 13
    x = x * 0xC2B2AE35 & WORD
    return x ^ x >> 16


def uniform(key: tuple[int, int], step: int, token: int) -> float:
    """The random number of a token at a step of a request."""
    first, second = (word & WORD for word in key)
    x = scrambled(token & WORD) ^ scrambled(first ^ scrambled((step + second) & WORD))
    x = scrambled((scrambled(x) + second) & WORD)
    return ((x >> 9) + 0.5) / 2**23


def component(key: tuple[int, int], step: int, weights: Sequence[float]) -> int:
    """Which of them a row draws, by its weight."""
    at, below = uniform(key, step, -1) * sum(weights), 0.0
    for number, weight in enumerate(weights):
        below += weight
        if at < below:
            return number
    raise AssertionError(f"{at} of {weights}")


def drawn(key: tuple[int, int], step: int, scores: torch.Tensor) -> int:
    """The token that a row draws from scores at temperature 1."""
    values = scores.tolist()
    noise = [-math.log(-math.log(uniform(key, step, token))) for token in range(len(values))]
    return max(range(len(values)), key=lambda token: values[token] + noise[token])


def rollout(
    voices: Sequence[Voice], weights: Sequence[float], seed: int, most: int,
    ends: Sequence[int] = (), sample: int = 0,
) -> tuple[list[int], list[int]]:  # fmt: skip
    """The tokens of a row, and the component that each is from."""
    key, tokens, components = seed_key(seed, sample), list[int](), list[int]()
    while len(tokens) < most and not (tokens and tokens[-1] in ends):
        components.append(component(key, len(tokens), weights))
        tokens.append(drawn(key, len(tokens), voices[components[-1]](tokens)))
    return tokens, components
