"""The operators on scores: each is a frozen dataclass, and its fields are its signature.

What an operator does to scores lives in the runtime. `top_k`, `top_p` and `min_p` of scores are the
stages of those names, in parentheses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .signature import (
    Shift,
    Signature,
    condition,
    derived,
    head,
    many,
    model,
    number,
    scores,
    weighted,
)

OPERATORS: dict[str, type[Operator]] = {}
STAGED = ("top_k", "top_p", "min_p")  # f(x, n) is (x | f(n))


@dataclass(frozen=True)
class Operator(Signature):
    """A value made of scores; ``on_shift`` holds for each of them by itself."""

    table = OPERATORS


@dataclass(frozen=True)
class Max(Operator, name="max"):
    """The union: of each token, the best of its scores (language-model-arithmetic)."""

    parts: Any = many()


@dataclass(frozen=True)
class Min(Operator, name="min"):
    """The intersection: of each token, the worst of its scores (language-model-arithmetic)."""

    parts: Any = many()


@dataclass(frozen=True)
class Mix(Operator, name="mix"):
    """The mixture of the distributions: `log Σ wᵢ·softmax(xᵢ)`."""

    on_shift = Shift.ABSORBED
    parts: Any = weighted()


@dataclass(frozen=True)
class PowerMean(Operator, name="pmean"):
    """The power mean of the distributions, `log (Σ wᵢ·softmax(xᵢ)^p)^(1/p)`; 0 is geometric."""

    on_shift = Shift.ABSORBED
    p: Any = number()
    parts: Any = weighted()


@dataclass(frozen=True)
class Mean(Operator, name="mean"):
    """Divides by the sum of the collected coefficients, then log-softmax."""

    on_shift = Shift.ABSORBED
    x: Any = scores()
    total: Any = derived()


@dataclass(frozen=True)
class Temp(Operator, name="temp"):
    """The distribution at another temperature: `log_softmax(x / t)`."""

    on_shift = Shift.ABSORBED
    x: Any = scores()
    t: Any = number(low=0, above=True, divides=True)


@dataclass(frozen=True)
class Plausible(Operator, name="plausible"):
    """Masks tokens with less than alpha times the best probability (contrastive decoding)."""

    on_shift = Shift.PASSED
    x: Any = scores()
    alpha: Any = number(low=0, high=1)


@dataclass(frozen=True)
class Debias(Operator, name="debias"):
    """Self-debiasing: `log_softmax(x + lam·min(e^x - e^y, 0))`."""

    x: Any = scores()
    y: Any = scores()
    lam: Any = number()


@dataclass(frozen=True)
class Where(Operator, name="where"):
    """x where the condition holds for the row, y elsewhere; what no row needs is not run."""

    on_shift = Shift.PASSED
    condition: Any = condition()
    x: Any = scores()
    y: Any = scores()


@dataclass(frozen=True)
class Align(Operator, name="align"):
    """A model with another vocabulary, its tokens found by their bytes (GaC, UniTE)."""

    x: Any = model()  # no node of a plan: what stands here becomes a term that is aligned


@dataclass(frozen=True)
class Head(Operator, name="head"):
    """A head on the output of a decoder layer of one model: scores (DoLa), or a number (probes)."""

    x: Any = model()  # no node of a plan: what stands here is read by the head
    v: Any = head()
