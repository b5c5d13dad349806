"""Numbers with parameters in them: a simplified coefficient.

A small expression tree, printed and evaluated without sympy; no code is made from text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from ..grammar.frozen import Frozen


@dataclass(frozen=True, slots=True)
class Constant(Frozen):
    """An exact number."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Parameter(Frozen):
    """A declared parameter: a value per request."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply(Frozen):
    """``op`` over its arguments: ``+ * **`` or a scalar function."""

    op: str
    arguments: tuple[Expression, ...]


Expression: TypeAlias = Constant | Parameter | Apply

FUNCTIONS: dict[str, Callable[..., float]] = {
    "+": lambda *xs: math.fsum(xs),
    "*": lambda *xs: math.prod(xs),
    "**": lambda x, y: _real(x**y),
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "abs": abs,
    "min": min,
    "max": max,
}


def evaluate(expression: Expression, params: Mapping[str, float]) -> float:
    """The value in double precision; NaN where there is none, as in a division by zero."""
    try:
        return _value(expression, params)
    except (ArithmeticError, ValueError):
        return math.nan


def _value(expression: Expression, params: Mapping[str, float]) -> float:
    match expression:
        case Constant(value):
            return float(value)
        case Parameter(name):
            return float(params[name])
        case Apply(op, arguments):
            return FUNCTIONS[op](*(_value(argument, params) for argument in arguments))


def parameters(expression: Expression) -> frozenset[str]:
    """The names of the parameters in an expression."""
    match expression:
        case Parameter(name):
            return frozenset((name,))
        case Apply(_, arguments):
            return frozenset().union(*map(parameters, arguments))
        case _:
            return frozenset()


def show(expression: Expression, inside: int = 0) -> str:
    """The expression as a reader would write it: ``1 - a``, ``2*a**2``."""
    match expression:
        case Constant(value):
            return _bracket(_number(value), inside > 0 and (value < 0 or "/" in _number(value)))
        case Parameter(name):
            return name
        case Apply("+", arguments):
            first, *rest = arguments
            sums = (isinstance(part, Apply) and part.op == "+" for part in rest)
            return _bracket(added([show(first), *map(show, rest, sums)]), inside > 0)
        case Apply("*", arguments):
            return _bracket(_product(arguments), inside > 1)
        case Apply("**", (_, Constant(value))) if value < 0:
            return _bracket(_product((expression,)), inside > 1)
        case Apply("**", (base, exponent)):
            return _bracket(f"{show(base, 2)}**{show(exponent, 2)}", inside > 1)
        case Apply(op, arguments):
            return f"{op}({', '.join(show(argument) for argument in arguments)})"


def _product(arguments: tuple[Expression, ...]) -> str:
    sign, over, under = "", [], []
    for argument in arguments:
        match argument:
            case Constant(value) if value == -1:
                sign = "-" if not sign else ""
            case Constant(value) if value < 0:
                sign = "-" if not sign else ""
                over.append(show(Constant(-value), 1))
            case Apply("**", (base, Constant(value))) if value < 0:
                power = base if value == -1 else Apply("**", (base, Constant(-value)))
                under.append(show(power, 2 if value == -1 else 1))
            case _:
                over.append(show(argument, 1))
    return sign + "*".join(over or ["1"]) + "".join(f"/{part}" for part in under)


def _number(value: Fraction) -> str:
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
