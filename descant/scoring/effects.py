"""Effect sizes: how much larger scores are than those of a reference, paired by prompt.

Prompts are the units: the samples of one prompt are averaged before anything else. Intervals are
those of ``intervals``; the test flips the signs of the prompts' differences, and Holm's procedure
(1979) corrects it over all that is compared with one reference. Everything is seeded.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from .intervals import Mean, difference, interval

ByPrompt = Mapping[object, Sequence[float]]  # the values of each prompt's samples
Name = TypeVar("Name", bound=Hashable)
FLIPS, SEED = 9999, 1  # of the signs, where there are more ways than that
_EXACT = 13  # prompts: 2**13 ways to flip their signs
_ROUNDING = 1e-12  # of the sum of all differences


@dataclass(frozen=True)
class Effect:
    """How much larger ours are than theirs, over the prompts that both have.

    Attributes:
        difference: the mean of the prompts' differences, with its 95 % interval; ``n`` prompts.
        d_z: that mean in standard deviations of the differences (Cohen's d of pairs); None where
            all differences are equal.
        win_rate: the share of prompts at which ours are larger; equal is half.
        p: of the two-sided sign-flip test that the differences are symmetric about 0.
        p_holm: the same, corrected over all that was compared with one reference.
    """

    difference: Mean
    d_z: float | None
    win_rate: Mean
    p: float
    p_holm: float

    @property
    def figures(self) -> dict[str, Any]:
        """Its numbers, as the columns of a table."""
        mean, rate = self.difference, self.win_rate
        return {
            "difference": mean.mean, "difference_low": mean.low, "difference_high": mean.high,
            "d_z": self.d_z, "win_rate": rate.mean, "win_rate_low": rate.low,
            "win_rate_high": rate.high, "p": self.p, "p_holm": self.p_holm, "prompts": mean.n,
        }  # fmt: skip


def effects(ours: Mapping[Name, ByPrompt], theirs: ByPrompt) -> dict[Name, Effect]:
    """The effect of each of several settings against one reference.

    Those without a prompt in common with it are left out, and count for nothing.

    >>> found = effects({"arm": {0: [1.0, 2.0], 1: [3.5], 2: [2.5]}}, {0: [1.0], 1: [2.0], 2: [1]})
    >>> found["arm"].difference.mean, round(found["arm"].d_z, 3), found["arm"].p
    (1.1666666666666667, 2.021, 0.25)
    """
    each = {name: effect for name, own in ours.items() if (effect := _effect(own, theirs))}
    corrected = holm([effect.p for effect in each.values()])
    return {
        name: replace(effect, p_holm=p)
        for (name, effect), p in zip(each.items(), corrected, strict=True)
    }


def _effect(ours: ByPrompt, theirs: ByPrompt) -> Effect | None:
    means = {
        prompt: float(np.mean(ours[prompt]) - np.mean(theirs[prompt]))
        for prompt in ours
        if prompt in theirs
    }
    if not means:
        return None
    differences = np.array(list(means.values()))
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    same = spread <= _ROUNDING * float(np.abs(differences).max())
    wins = {prompt: [(value > 0) + 0.5 * (value == 0)] for prompt, value in means.items()}
    p = sign_flip(differences)
    return Effect(
        difference=difference(ours, theirs),
        d_z=None if same else float(differences.mean()) / spread,
        win_rate=interval(wins),
        p=p,
        p_holm=p,
    )


def sign_flip(differences: Any) -> float:
    """The two-sided p-value of a mean difference of 0, over ways to flip the differences' signs.

    Up to 13 differences, all ways; beyond, 9999 at random and the one that was observed (Phipson
    and Smyth 2010), so that it is never below 1e-4.
    """
    signs = _signs(len(differences))
    observed = abs(differences.sum()) - _ROUNDING * np.abs(differences).sum()
    extreme = int((np.abs(signs @ differences) >= observed).sum())
    if len(differences) <= _EXACT:
        return extreme / len(signs)
    return (extreme + 1) / (len(signs) + 1)


@lru_cache(maxsize=2)  # the points of a sweep have the same prompts
def _signs(count: int) -> Any:
    """``(ways, count)`` signs, each 1 or -1."""
    if count <= _EXACT:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        bits = np.random.default_rng(SEED).integers(2, size=(FLIPS, count), dtype=np.int8)
    return 2.0 * bits - 1


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values by Holm's step-down procedure: one below 0.05 errs in 5 % of all families at most.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p = np.array(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return [float(value) for value in corrected]


def p_text(p: float) -> str:
    """A p-value as text.

    >>> p_text(0.04321), p_text(0.0001)
    ('0.043', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"
