"""Sampling noise as a pure function of (request seed, step, token).

A counter-based hash in 32-bit integers, so that a seeded request draws the same tokens whatever
shares its batch, on any device, eager or captured. No generator, no state.
"""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def seed_key(seed: int, sample: int = 0) -> tuple[int, int]:
    """Two signed 32-bit words for a request's seed and the number of its sample."""
    mixed = _splitmix(_splitmix(seed & _MASK) ^ sample if sample else _splitmix(seed & _MASK))
    return struct.unpack(">ii", mixed.to_bytes(8))


def gumbel(keys: Tensor, steps: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise: adding it to log-probabilities and taking the best is sampling.

    Args:
        keys: ``(slots, 2)`` int32, from ``seed_key``.
        steps: ``(slots,)`` int, how many tokens the request has drawn.
        vocabulary: tokens to draw for.

    Returns:
        ``(slots, vocabulary)`` float32, never infinite.
    """
    bits = torch.empty(len(keys), vocabulary, dtype=torch.int32, device=keys.device)
    tokens = torch.arange(vocabulary, dtype=torch.int32, device=keys.device)
    words = (bits, keys, steps.to(torch.int32), tokens)
    # On a CPU, arrays are several times faster at many small operations.
    _write(*(word.numpy() if word.device.type == "cpu" else word for word in words))
    # 23 bits and a half fit float32 exactly; a 24th would round up to 1, and so to infinity.
    uniform = bits.float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_()


def coin(seed: int, flip: int) -> float:
    """A number in [0, 1) for one decision about a request, of which there may be many."""
    return (_splitmix(~_splitmix(seed & _MASK) ^ flip) >> 11) * 2.0**-53


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


def _scramble(x: Any) -> Any:
    """A bijection of 32-bit words (murmur3's finaliser), in place."""
    x ^= (x >> 16) & 0xFFFF
    x *= -2048144789
    x ^= (x >> 13) & 0x7FFFF
    x *= -1028477387
    x ^= (x >> 16) & 0xFFFF
    return x


def _splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
