"""Bootstrap intervals of means over prompts.

Prompts are resampled together with all of their samples, since samples of one prompt are alike
(Efron and Tibshirani 1993, percentile intervals). Everything is seeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES, SEED, LEVEL = 5000, 0, 0.95


@dataclass(frozen=True)
class Mean:
    """A mean and the 95 % interval around it; ``n`` values."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


NOTHING = Mean(float("nan"), float("nan"), float("nan"), 0)


def interval(values: Mapping[object, Sequence[float]]) -> Mean:
    """The mean over the means of each prompt's samples, and its interval.

    >>> interval({"one": [1.0, 2.0], "two": [2.5]})
    Mean(mean=2.0, low=1.5, high=2.5, n=3)
    """
    means = np.array([np.mean(sample) for sample in values.values() if len(sample)], dtype=float)
    if not len(means):
        return NOTHING
    resampled = means[_resamples(len(means))].mean(axis=1)
    return _mean(means.mean(), resampled, sum(map(len, values.values())))


def share(
    ours: Mapping[object, Sequence[float]],
    start: Mapping[object, Sequence[float]],
    end: Mapping[object, Sequence[float]],
) -> Mean:
    """The share ``(ours - start) / (end - start)`` of the means, over the prompts that all have.

    The three means are of the same prompts in every draw. Where start and end are close, the
    interval is wide, or not a number.

    >>> share({"one": [2.0], "two": [3.0]}, {"one": [1], "two": [1]}, {"one": [3], "two": [4]})
    Mean(mean=0.6, low=0.5, high=0.6666666666666666, n=2)
    """
    shared = [prompt for prompt in ours if prompt in start and prompt in end]
    if not shared:
        return NOTHING
    x, a, b = (np.array([np.mean(means[p]) for p in shared]) for means in (ours, start, end))
    picks = _resamples(len(shared))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (x.mean() - a.mean()) / (b.mean() - a.mean())
        resampled = (x - a)[picks].mean(axis=1) / (b - a)[picks].mean(axis=1)
        return _mean(mean, resampled, sum(len(ours[p]) for p in shared))


def difference(
    ours: Mapping[object, Sequence[float]], theirs: Mapping[object, Sequence[float]]
) -> Mean:
    """How much larger ours are, paired: over the prompts that both have."""
    shared = [prompt for prompt in ours if prompt in theirs]
    return interval({p: [float(np.mean(ours[p]) - np.mean(theirs[p]))] for p in shared})


def _resamples(count: int) -> Any:
    """``(RESAMPLES, count)`` indices of prompts."""
    return np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))


def _mean(mean: Any, resampled: Any, n: int) -> Mean:
    low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Mean(float(mean), float(low), float(high), n)
