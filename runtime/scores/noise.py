"""What is random about a request, from its seed: the key of its noise, and its coins."""

from __future__ import annotations

import math
import struct

from ...models.kernels.noise import gumbel, uniform, uniform_on_host

__all__ = ["COIN", "coin", "gumbel", "gumbel_on_host", "seed_key", "uniform"]

COIN = -2  # the token that stands for the coin of a step

_MASK = (1 << 64) - 1


def seed_key(seed: int, sample: int = 0) -> tuple[int, int]:
    """Two signed 32-bit words for a request's seed and the number of its sample."""
    mixed = _splitmix(_splitmix(seed & _MASK) ^ sample if sample else _splitmix(seed & _MASK))
    return struct.unpack(">ii", mixed.to_bytes(8))


def gumbel_on_host(key: tuple[int, int], step: int, token: int) -> float:
    """The noise of one token, as ``gumbel`` gives it, in Python's numbers."""
    return -math.log(-math.log(uniform_on_host(key, step, token)))


def coin(seed: int, flip: int) -> float:
    """A number in [0, 1) for one decision about a request, of which there may be many."""
    return (_splitmix(~_splitmix(seed & _MASK) ^ flip) >> 11) * 2.0**-53


def _splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
