"""The operators on scores: each is a frozen dataclass, and its fields are its signature.

What an operator does to scores lives in the runtime. `top_k`, `top_p` and `min_p` of scores are the
stages of those names, in parentheses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .signature import (
    Limits,
    Shift,
    Signature,
    condition,
    derived,
    many,
    model,
    number,
    register,
    scores,
    weighted,
)

OPERATORS: dict[str, type[Operator]] = {}
STAGED = ("top_k", "top_p", "min_p")  # f(x, n) is (x | f(n))


@dataclass(frozen=True)
class Operator(Signature):
    """A value made of scores; ``on_shift`` holds for each of them by itself."""


@register("max", OPERATORS)
@dataclass(frozen=True)
class Max(Operator):
    """The union: of each token, the best of its scores (language-model-arithmetic)."""

    parts: Any = many()


@register("min", OPERATORS)
@dataclass(frozen=True)
class Min(Operator):
    """The intersection: of each token, the worst of its scores (language-model-arithmetic)."""

    parts: Any = many()


@register("mix", OPERATORS)
@dataclass(frozen=True)
class Mix(Operator):
    """The mixture of the distributions: `log Σ wᵢ·softmax(xᵢ)`."""

    on_shift = Shift.ABSORBED
    parts: Any = weighted()


@register("pmean", OPERATORS)
@dataclass(frozen=True)
class PowerMean(Operator):
    """The power mean of the distributions, `log (Σ wᵢ·softmax(xᵢ)^p)^(1/p)`; 0 is geometric."""

    on_shift = Shift.ABSORBED
    p: Any = number()
    parts: Any = weighted()


@register("mean", OPERATORS)
@dataclass(frozen=True)
class Mean(Operator):
    """Divides by the sum of the collected coefficients, then log-softmax."""

    on_shift = Shift.ABSORBED
    x: Any = scores()
    total: Any = derived()


@register("temp", OPERATORS)
@dataclass(frozen=True)
class Temp(Operator):
    """The distribution at another temperature: `log_softmax(x / t)`."""

    on_shift = Shift.ABSORBED
    x: Any = scores()
    t: Any = number(Limits(0, above=True))


@register("plausible", OPERATORS)
@dataclass(frozen=True)
class Plausible(Operator):
    """Masks tokens with less than alpha times the best probability (contrastive decoding)."""

    on_shift = Shift.PASSED
    x: Any = scores()
    alpha: Any = number(Limits(0, 1))


@register("debias", OPERATORS)
@dataclass(frozen=True)
class Debias(Operator):
    """Self-debiasing: `log_softmax(x + lam·min(e^x - e^y, 0))`."""

    x: Any = scores()
    y: Any = scores()
    lam: Any = number()


@register("where", OPERATORS)
@dataclass(frozen=True)
class Where(Operator):
    """x where the condition holds for the row, y elsewhere; what no row needs is not run."""

    on_shift = Shift.PASSED
    condition: Any = condition()
    x: Any = scores()
    y: Any = scores()


@register("align", OPERATORS)
@dataclass(frozen=True)
class Align(Operator):
    """A model with another vocabulary, its tokens found by their bytes (GaC, UniTE)."""

    x: Any = model()  # no node of a plan: what stands here becomes a term that is aligned
