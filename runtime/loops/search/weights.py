"""Weights of answers, as logarithms: how even they are, one drawn by them, rows drawn again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate


def log_mean_exp(log_weights: Sequence[float]) -> float:
    """The logarithm of the mean weight; -inf where all are 0."""
    best = max(log_weights)
    if best == -math.inf:
        return best
    total = math.fsum(math.exp(each - best) for each in log_weights)
    return best + math.log(total / len(log_weights))


def shares(log_weights: Sequence[float]) -> list[float]:
    """Each weight's share of all of them; one must be above 0."""
    best = max(log_weights)
    weights = [math.exp(each - best) for each in log_weights]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def effective_sample_size(log_weights: Sequence[float]) -> float:
    """``(sum w)^2 / sum w^2``: between 1 and their number."""
    return 1 / math.fsum(share * share for share in shares(log_weights))


def drawn_by_weight(log_weights: Sequence[float], luck: float) -> int:
    """The number of one, in proportion to the weights, by a number in [0, 1)."""
    return systematic(log_weights, [luck])[0]


def resampled(log_weights: Sequence[float], luck: float) -> list[int]:
    """As many numbers as there are weights, by systematic resampling, from one in [0, 1).

    Number i comes ``n·share`` times, rounded up or down, and in expectation exactly so often.
    """
    count = len(log_weights)
    return systematic(log_weights, [(row + luck) / count for row in range(count)])


def systematic(log_weights: Sequence[float], points: Sequence[float]) -> list[int]:
    """For each of increasing points in [0, 1), whose share of the whole it falls into."""
    own = shares(log_weights)
    ends = [*accumulate(own)]
    last = max(number for number, share in enumerate(own) if share > 0)
    chosen, number = [], 0
    for point in points:
        while number < last and ends[number] <= point:
            number += 1
        chosen.append(number)
    return chosen
