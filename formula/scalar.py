"""Numbers with parameters and numbers of the state in them: a simplified coefficient, a reward.

A small expression tree, printed and evaluated without sympy; no code is made from text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeAlias

from ..grammar import Span
from ..grammar.frozen import Frozen, shown
from ..grammar.unrolled import Steps, unrolled
from .words.signature import UNLIMITED, Limits


@dataclass(frozen=True, slots=True)
class Constant(Frozen):
    """An exact number."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Parameter(Frozen):
    """A declared parameter: a value per request."""

    name: str


@dataclass(frozen=True, slots=True)
class StateNumber(Frozen):
    """A number of the state, another per row and step: ``step``, ``entropy(x)``, ``kl(x, y)``.

    Attributes:
        of: the scores that it is of, as the plan has them.
        text: as a reader would write it.
    """

    name: str
    of: tuple[Frozen, ...] = ()
    text: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TermNumber(Frozen):
    """A term in a reward expression: its reward, or its log-probability of the answer.

    Attributes:
        term: a ``Term``.
        text: as a reader would write it.
    """

    term: Any
    text: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class AnswerLength(Frozen):
    """In a reward expression, how many tokens the answer has; 1 of an empty one."""


@dataclass(frozen=True, slots=True)
class Apply(Frozen):
    """``op`` over its arguments: ``+ * **`` or a scalar function."""

    op: str
    arguments: tuple[Expression, ...]


Expression: TypeAlias = Constant | Parameter | StateNumber | TermNumber | AnswerLength | Apply


@dataclass(frozen=True)
class Scalar(Frozen):
    """One number that a row needs: a coefficient, an argument, or a reward expression.

    Attributes:
        states: the numbers of the state in it: with any, it is another in each step.
        known: numbers in such a one that are known before the step.
        terms: of a reward expression, each once, in the order that they have in a plan: with any,
            it is another number for each text.
        parts: of a reward expression, the largest numbers in it that no text decides.
    """

    expression: Expression
    what: str
    limits: Limits = UNLIMITED
    span: Span = field(default=Span(0, 0), compare=False, repr=False)

    def __str__(self) -> str:
        return show(self.expression)

    @cached_property
    def states(self) -> tuple[StateNumber, ...]:
        return tuple(state_numbers(self.expression))

    @cached_property
    def known(self) -> tuple[Scalar, ...]:
        parts = largest_without(StateNumber, self.expression) if self.states else []
        return tuple(Scalar(part, show(part), span=self.span) for part in parts)

    @cached_property
    def terms(self) -> tuple[Any, ...]:
        found = {each.term for each in below(self.expression) if isinstance(each, TermNumber)}
        return tuple(sorted(found, key=lambda term: term.key))

    @cached_property
    def parts(self) -> tuple[Scalar, ...]:
        parts = largest_without(OF_TEXTS, self.expression) if self.terms else []
        return tuple(Scalar(part, f"{show(part)} in a reward", span=self.span) for part in parts)

    @property
    def is_linear(self) -> bool:
        """Whether a reward is a sum of terms, and perhaps a length, each with a coefficient."""
        of_texts = [each for each in summands(self.expression) if has(OF_TEXTS, each)]
        return all(
            sum(has(OF_TEXTS, factor) for factor in factors_of(each)) == 1
            and any(isinstance(factor, OF_TEXTS) for factor in factors_of(each))
            for each in of_texts
        )


LONGEST = 48  # characters of an expression in a table
OF_TEXTS = TermNumber | AnswerLength  # what is another number for each text


def sigmoid(x: float) -> float:
    """``1 / (1 + exp(-x))``, without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


FUNCTIONS: dict[str, Callable[..., float]] = {
    "+": lambda *xs: math.fsum(xs),
    "*": lambda *xs: math.prod(xs),
    "**": lambda x, y: _real(x**y),
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "abs": abs,
    "sigmoid": sigmoid,
    "min": min,
    "max": max,
}


def evaluate(
    expression: Expression,
    params: Mapping[str, float],
    texts: Mapping[Expression, float] = MappingProxyType({}),
) -> float:
    """The value in double precision; NaN where there is none, as in a division by zero.

    With numbers of the state in it, it is NaN too, but for what is 0 whatever they are. Those of a
    reward expression are in ``texts``: of each term, and of the answer's length.
    """
    try:
        return unrolled(_value(expression, params, texts))
    except (ArithmeticError, ValueError):
        return math.nan


def _value(
    expression: Expression, params: Mapping[str, float], texts: Mapping[Expression, float]
) -> Steps[float]:
    match expression:
        case Constant(value):
            return float(value)
        case Parameter(name):
            return float(params[name])
        case StateNumber():
            return math.nan
        case TermNumber() | AnswerLength():
            return float(texts.get(expression, math.nan))
        case Apply(op, arguments):
            values = []
            for argument in arguments:
                values.append((yield _value(argument, params, texts)))
            if any(map(math.isnan, values)):
                return 0.0 if op == "*" and 0 in values else math.nan
            return FUNCTIONS[op](*values)


def linear_part(reward: Scalar, term: Any) -> tuple[Expression, ...] | None:
    """What multiplies a term in a reward expression that is linear in it; else None."""
    number = TermNumber(term)
    [product, *more] = [each for each in summands(reward.expression) if number in below(each)]
    others = tuple(each for each in factors_of(product) if each != number)
    if more or others == factors_of(product) or any(has(OF_TEXTS, each) for each in others):
        return None
    return others


def coefficient_in(reward: Scalar, term: Any) -> str:
    """What multiplies a term in a reward expression; or the parts of it that the term is in."""
    if (linear := linear_part(reward, term)) is not None:
        return show(Apply("*", linear) if linear[1:] else linear[0]) if linear else "1"
    parts = (each for each in summands(reward.expression) if TermNumber(term) in below(each))
    text = added(map(show, parts))
    return f"in {text}" if len(text) <= LONGEST else f"in {text[: LONGEST - 1]}…"


def summands(expression: Expression) -> tuple[Expression, ...]:
    """The parts of a sum; anything else by itself."""
    is_sum = isinstance(expression, Apply) and expression.op == "+"
    return expression.arguments if is_sum else (expression,)  # type: ignore[union-attr]


def factors_of(expression: Expression) -> tuple[Expression, ...]:
    """The factors of a product; anything else by itself."""
    is_product = isinstance(expression, Apply) and expression.op == "*"
    return expression.arguments if is_product else (expression,)  # type: ignore[union-attr]


def state_numbers(expression: Expression) -> list[StateNumber]:
    """The numbers of the state in an expression, each once, without those inside them."""
    found = [each for each in below(expression) if isinstance(each, StateNumber)]
    return list(dict.fromkeys(found))


def largest_without(kinds: Any, expression: Expression) -> list[Expression]:
    """The largest parts of an expression without numbers of some kinds, but for constants."""
    found: list[Expression] = []
    todo = [expression]
    while todo:
        each = todo.pop()
        if has(kinds, each):
            todo += each.arguments if isinstance(each, Apply) else ()
        elif not isinstance(each, Constant):
            found.append(each)
    return list(dict.fromkeys(found))


def has(kinds: Any, expression: Expression) -> bool:
    """Whether there are numbers of some kinds in an expression."""
    return any(isinstance(each, kinds) for each in below(expression))


def parameters(expression: Expression) -> frozenset[str]:
    """The names of the parameters in an expression, without those in numbers of the state."""
    return frozenset(each.name for each in below(expression) if isinstance(each, Parameter))


def below(expression: Expression) -> Iterator[Expression]:
    """An expression and every one inside it."""
    todo = [expression]
    while todo:
        each = todo.pop()
        yield each
        if isinstance(each, Apply):
            todo += each.arguments


def show(expression: Expression, inside: int = 0) -> str:
    """The expression as a reader would write it: ``1 - a``, ``2*a**2``.

    Args:
        expression: what is shown.
        inside: how tightly what is around it binds: 0 nothing, 1 a product, 2 a power.
    """
    return unrolled(_shown(expression, inside))


def all_of_states(expression: Expression) -> str:
    """What tells expressions apart whose texts are cut: everything that their numbers are of."""
    cut = [each for each in below(expression) if isinstance(each, StateNumber | TermNumber)]
    return "".join(shown(each, {}) for each in dict.fromkeys(cut))


def _shown(expression: Expression, inside: int = 0) -> Steps[str]:
    match expression:
        case Constant(value):
            return _bracket(_number(value), inside > 0 and (value < 0 or "/" in _number(value)))
        case Parameter(name):
            return name
        case StateNumber(text=text) | TermNumber(text=text):
            return text
        case AnswerLength():
            return "answer_length"
        case Apply("+", arguments):
            parts = []
            for i, part in enumerate(arguments):
                is_sum = isinstance(part, Apply) and part.op == "+"
                parts.append((yield _shown(part, int(i > 0 and is_sum))))
            return _bracket(added(parts), inside > 0)
        case Apply("*", arguments):
            return _bracket((yield _product(arguments)), inside > 1)
        case Apply("**", (_, Constant(value))) if value < 0:
            return _bracket((yield _product((expression,))), inside > 1)
        case Apply("**", (base, exponent)):
            low, high = (yield _shown(base, 2)), (yield _shown(exponent, 2))
            return _bracket(f"{low}**{high}", inside > 1)
        case Apply(op, arguments):
            parts = []
            for part in arguments:
                parts.append((yield _shown(part)))
            return f"{op}({', '.join(parts)})"


def _product(arguments: tuple[Expression, ...]) -> Steps[str]:
    sign, over, under = "", [], []
    for argument in arguments:
        match argument:
            case Constant(value) if value == -1:
                sign = "-" if not sign else ""
            case Constant(value) if value < 0:
                sign = "-" if not sign else ""
                over.append((yield _shown(Constant(-value), 1)))
            case Apply("**", (base, Constant(value))) if value < 0:
                power = base if value == -1 else Apply("**", (base, Constant(-value)))
                under.append((yield _shown(power, 2 if value == -1 else 1)))
            case _:
                over.append((yield _shown(argument, 1)))
    return sign + "*".join(over or ["1"]) + "".join(f"/{part}" for part in under)


def _number(value: Fraction) -> str:
    if value.denominator == 1 and abs(value) < 10**6:
        return str(value)
    try:
        as_float = format(float(value), "g")
    except OverflowError:
        return str(value)
    return as_float if Fraction(as_float) == value else str(value)


def added(parts: Iterable[str]) -> str:
    """A sum of texts; a leading minus becomes a subtraction."""
    first, *rest = parts
    return first + "".join(f" - {p[1:]}" if p.startswith("-") else f" + {p}" for p in rest)


def _bracket(inner: str, needed: bool) -> str:
    return f"({inner})" if needed else inner


def _real(value: complex | float) -> float:
    if isinstance(value, complex):
        raise ValueError("a root of a negative number")
    return value
