"""Sampling noise as a pure function of (request's key, step, token).

A counter-based hash in 32-bit integers, so that a seeded request draws the same tokens whatever
shares its batch, on any device, eager or captured. No generator, no state. ``draw_kernel`` has the
same hash for Triton.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def gumbel(keys: Tensor, steps: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise: adding it to log-probabilities and taking the best is sampling.

    Args:
        keys: ``(slots, 2)`` int32, of each request's seed.
        steps: ``(slots,)`` int, how many tokens the request has drawn.
        vocabulary: tokens to draw for.

    Returns:
        ``(slots, vocabulary)`` float32, never infinite.
    """
    tokens = torch.arange(vocabulary, dtype=torch.int32, device=keys.device)
    return _uniform(keys, steps, tokens).log_().neg_().log_().neg_()


def uniform(keys: Tensor, steps: Tensor, token: int = -1) -> Tensor:
    """``(slots, 1)`` float32 above 0 and below 1: of a step itself, as if it were the token -1.

    The same bits on any device. The other arguments are those of ``gumbel``.
    """
    return _uniform(keys, steps, torch.full((1,), token, dtype=torch.int32, device=keys.device))


def uniform_on_host(key: tuple[int, int], step: int, token: int = -1) -> float:
    """``uniform`` of one row, in Python's numbers: where no tensor is to be asked.

    With a token, what ``gumbel`` makes its noise of: ``-log(-log(u))``.
    """
    first, second = key[0] & _WORD, key[1] & _WORD
    x = _scrambled(first ^ _scrambled(step + second & _WORD)) ^ _scrambled(token & _WORD)
    x = _scrambled(_scrambled(x) + second & _WORD)
    return ((x >> 9) + 0.5) * 2.0**-23


def noisy(scores: Tensor, temperatures: Tensor, keys: Tensor, steps: Tensor) -> Tensor:
    """``(slots, V)`` what the best token is drawn by: the scores, with noise where a row samples.

    Args:
        scores: ``(slots, V)`` float32.
        temperatures: ``(slots,)`` float32; a row samples above 0.
        keys, steps: as in ``gumbel``.
    """
    warm = temperatures[:, None]
    noise = gumbel(keys, steps, scores.shape[-1])
    return torch.where(warm > 0, scores / warm + noise, scores)


def _uniform(keys: Tensor, steps: Tensor, tokens: Tensor) -> Tensor:
    """``(slots, tokens)`` float32 above 0 and below 1."""
    bits = torch.empty(len(keys), len(tokens), dtype=torch.int32, device=keys.device)
    words = (bits, keys, steps.to(torch.int32), tokens)
    # On a CPU, arrays are several times faster at many small operations.
    _write(*(word.numpy() if word.device.type == "cpu" else word for word in words))
    # 23 bits and a half fit float32 exactly; a 24th would round up to 1, and so to infinity.
    return bits.float().add_(0.5).mul_(2.0**-23)


def _write(bits: Any, keys: Any, steps: Any, tokens: Any) -> None:
    """Fill ``(slots, vocabulary)`` words with 23 random bits; tensors or arrays, of int32."""
    first = _scramble(keys[:, 0] ^ _scramble(steps + keys[:, 1]))
    bits[:] = _scramble(tokens)
    bits ^= first[:, None]
    bits = _scramble(bits)
    bits += keys[:, 1:]
    bits = _scramble(bits)
    bits >>= 9
    bits &= 0x7FFFFF


def _scrambled(x: int) -> int:
    """``_scramble`` of one word, without a sign."""
    x = (x ^ x >> 16) * 0x85EBCA6B & _WORD
    x = (x ^ x >> 13) * 0xC2B2AE35 & _WORD
    return x ^ x >> 16


def _scramble(x: Any) -> Any:
    """A bijection of 32-bit words (murmur3's finaliser), in place."""
    x ^= (x >> 16) & 0xFFFF
    x *= -2048144789
    x ^= (x >> 13) & 0x7FFFF
    x *= -1028477387
    x ^= (x >> 16) & 0xFFFF
    return x
