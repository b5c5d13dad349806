"""Bootstrap intervals of means: what they would be with other prompts.

Prompts are drawn again, with all of their samples, since samples of one prompt are alike
(Efron and Tibshirani 1993, percentile intervals). Everything is seeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS, SEED, LEVEL = 5000, 0, 0.95


@dataclass(frozen=True)
class Mean:
    """A mean and the 95 % interval around it; ``n`` values."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Mapping[object, Sequence[float]]) -> Mean:
    """The mean over prompts' means, and its interval.

    Args:
        values: per prompt, those of its samples.

    >>> interval({"one": [1.0, 2.0], "two": [2.5]})
    Mean(mean=2.0, low=1.5, high=2.5, n=3)
    """
    means = np.array([np.mean(some) for some in values.values() if len(some)], dtype=float)
    count = sum(map(len, values.values()))
    if not len(means):
        return Mean(float("nan"), float("nan"), float("nan"), 0)
    draws = np.random.default_rng(SEED).integers(len(means), size=(DRAWS, len(means)))
    low, high = np.quantile(means[draws].mean(axis=1), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Mean(float(means.mean()), float(low), float(high), count)


def difference(
    ours: Mapping[object, Sequence[float]], theirs: Mapping[object, Sequence[float]]
) -> Mean:
    """How much larger ours are, paired: over the prompts that both have."""
    shared = [prompt for prompt in ours if prompt in theirs]
    return interval({p: [float(np.mean(ours[p]) - np.mean(theirs[p]))] for p in shared})
