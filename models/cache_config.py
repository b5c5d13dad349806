"""How caches are used, as whoever compiles a formula sets it; without torch."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ArgumentError, quoted


@dataclass(frozen=True)
class CacheConfig:
    """What the caches of a decoder, or of a service, may keep, and how much memory they may take.

    Attributes:
        enable_prefix_caching: keep what was read of a text, for others that begin with the same
            tokens, until its memory is needed. No token depends on it.
        gpu_memory_utilization: the share of a GPU's memory that weights, caches and work may take
            together: above 0, at most 1. Without effect on a CPU.

    Raises:
        ArgumentError: another value.

    >>> CacheConfig(gpu_memory_utilization=0.5)
    CacheConfig(enable_prefix_caching=True, gpu_memory_utilization=0.5)
    """

    enable_prefix_caching: bool = True
    gpu_memory_utilization: float = 0.9

    def __post_init__(self) -> None:
        on, share = self.enable_prefix_caching, self.gpu_memory_utilization
        if not isinstance(on, bool):
            raise ArgumentError(f"enable_prefix_caching is {quoted(on)}; it is true or false")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            problem = f"gpu_memory_utilization is {quoted(share)}"
            cure = "it is a share of the GPU's memory, above 0 and at most 1: 0.9"
            raise ArgumentError(f"{problem}; {cure}")
