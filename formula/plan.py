"""The plan: a formula after checking and collecting, ready to be bound to lanes.

Frozen nouns only; planner.py makes them. A number's index here is its index in the runtime's
tensor of values; a term's index is its index in every list of rows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ..grammar import FormulaError, Span
from .scalar import Expression, evaluate, parameters, show
from .stages import Limits, Stage
from .terms import Term


@dataclass(frozen=True)
class Scalar:
    """One number that a row needs: a coefficient or a stage's argument.

    Its position in ``Plan.scalars`` is its column in the tensor of values.
    """

    expression: Expression
    what: str
    limits: Limits = Limits()
    span: Span = field(default=Span(0, 0), compare=False)

    def __str__(self) -> str:
        return show(self.expression)


@dataclass(frozen=True)
class Read:
    """The log-probabilities (or, in a reward expression, the reward) of one term."""

    term: int


@dataclass(frozen=True)
class Linear:
    """``sum_i scalars[i] * parts[i] + shift``, in the order of the parts."""

    parts: tuple[tuple[int, Scores], ...]
    shift: int | None = None


Scores: TypeAlias = Read | Linear


@dataclass(frozen=True)
class Plan:
    """What a formula computes, with every number and every term in its place.

    Two formulas with one meaning have equal plans: spans and the text itself do not compare.
    """

    terms: tuple[Term, ...]
    rewards: tuple[Term, ...]
    scalars: tuple[Scalar, ...]
    scores: Scores
    stages: tuple[Stage, ...]
    formula: str = field(default="", compare=False)
    source: str = field(default="", compare=False)
    spans: Mapping[Term, Span] = field(default_factory=dict, compare=False, repr=False)
    dropped: tuple[str, ...] = field(default=(), compare=False)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models that must be loaded, in order of writing."""
        terms = sorted((*self.terms, *self.rewards), key=lambda term: self.spans[term])
        return tuple(dict.fromkeys(term.model for term in terms))

    @property
    def params(self) -> frozenset[str]:
        """The parameters that any number depends on."""
        return frozenset().union(*(parameters(scalar.expression) for scalar in self.scalars))

    def values(self, params: Mapping[str, float]) -> list[float]:
        """Every scalar's value for one request, in the order of ``scalars``.

        Raises:
            FormulaError: a parameter without a value or not finite; a number out of its limits.
        """
        for name in sorted(self.params):
            if name not in params:
                raise self.error(
                    f"the parameter {name} has no value", self._use(name),
                    f"declare it with one, params={{{name!r}: 0.5}}, or give it with the request",
                )  # fmt: skip
            value = params[name]
            if not _is_number(value) or not math.isfinite(value):
                raise self.error(
                    f"{name} is {value!r}; a parameter is a finite number", self._use(name)
                )
        return [self._value(scalar, params) for scalar in self.scalars]

    def error(self, problem: str, span: Span, cure: str = "") -> FormulaError:
        """A FormulaError marked in the text that this plan was made from."""
        return FormulaError(problem, self.source, span, cure)

    def _value(self, scalar: Scalar, params: Mapping[str, float]) -> float:
        try:
            value = evaluate(scalar.expression, params)
        except (ArithmeticError, ValueError):
            value = math.nan
        if not abs(value) <= 3e38:  # the tensor of values is float32
            used = parameters(scalar.expression)
            at = ", ".join(f"{name}={params[name]!r}" for name in sorted(used))
            raise self.error(
                f"{scalar.what} is not a finite number" + (f" at {at}" if at else ""), scalar.span
            )
        problem = scalar.limits.problem(value)
        if problem:
            raise self.error(f"{scalar.what} {problem}, not {value:g}", scalar.span)
        return value

    def _use(self, name: str) -> Span:
        """Where the parameter is written: inside the first number that needs it."""
        found = re.search(rf"(?<![\w@\"']){name}(?!\w)", self.source)
        return Span(*found.span()) if found else Span(0, len(self.source))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
