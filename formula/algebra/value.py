"""Coefficients while they are collected: as they are written, like factors and like parts together.

Nothing is multiplied out here. Whether a value is zero whatever its parameters are is known without
that: each has a trace, what it is at a point drawn at random, modulo a number drawn at random.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from ..scalar import Apply, Constant, Expression

FACTORS = 32  # of a product in which like factors are looked for
_MODULUS = secrets.randbits(128) | 1 << 127 | 1


@dataclass(frozen=True, slots=True)
class Value:
    """``factor * core``, and its trace: the two sides of a quotient of integers.

    Attributes:
        core: what is not a number; None for a number.
    """

    factor: Fraction
    core: Expression | None
    over: int
    under: int

    @property
    def is_zero(self) -> bool:
        """Whether it is zero for all parameters, as surely as that no one guesses 128 bits."""
        return self.over == 0

    @property
    def expression(self) -> Expression:
        """The value as it is written."""
        if self.core is None:
            return Constant(self.factor)
        if self.factor == 1:
            return self.core
        return Apply("*", (Constant(self.factor), *_factors(self.core)))

    def __neg__(self) -> Value:
        return Value(-self.factor, self.core, -self.over % _MODULUS, self.under)


def constant(number: Fraction | int) -> Value:
    """A number."""
    number = Fraction(number)
    over, under = number.numerator % _MODULUS, number.denominator % _MODULUS
    return Value(number, None, over or bool(number), under or 1)


def symbol(expression: Expression) -> Value:
    """What is worked out apart: a parameter, or a function of values; to be made once for each."""
    return Value(Fraction(1), expression, secrets.randbits(126) | 1, 1)


def added(values: Iterable[Value]) -> Value:
    """The sum."""
    over, under, number = 0, 1, Fraction(0)
    parts: dict[Expression, Fraction] = {}
    for value in values:
        over = (over * value.under + value.over * under) % _MODULUS
        under = under * value.under % _MODULUS
        if value.core is None:
            number += value.factor
        else:
            parts[value.core] = parts.get(value.core, Fraction(0)) + value.factor
    cores = [(core, factor) for core, factor in parts.items() if factor]
    if not cores:
        return constant(number)
    if len(cores) == 1 and not number:
        [(core, factor)] = cores
        return Value(factor, core, over, under)
    written = [Value(factor, core, 1, 1).expression for core, factor in cores]
    if number:
        written.insert(0, Constant(number))
    return Value(Fraction(1), Apply("+", tuple(written)), over, under)


def multiplied(a: Value, b: Value) -> Value:
    """The product."""
    if a.core is None or b.core is None:
        core = b.core if a.core is None else a.core
        if core is None or not (a.factor and b.factor):
            return constant(a.factor * b.factor)
    else:
        core = _product(a.core, b.core)
    over, under = a.over * b.over % _MODULUS, a.under * b.under % _MODULUS
    factor = a.factor * b.factor
    return Value(factor, core, over, under) if core is not None else constant(factor)


def powered(base: Value, power: int) -> Value:
    """A whole power; of a value that is not zero, where it is negative."""
    if base.core is None or power == 0:
        return constant(base.factor**power)
    over, under = (base.over, base.under) if power > 0 else (base.under, base.over)
    traces = pow(over, abs(power), _MODULUS), pow(under, abs(power), _MODULUS)
    factors = [(each, n * power) for each, n in map(_as_power, _factors(base.core))]
    return Value(base.factor**power, _joined(factors), *traces)


def is_integer_power(expression: Expression) -> bool:
    """Whether an expression is a power that can be multiplied out."""
    if not (isinstance(expression, Apply) and expression.op == "**"):
        return False
    exponent = expression.arguments[1]
    return isinstance(exponent, Constant) and exponent.value.denominator == 1


def _factors(core: Expression) -> tuple[Expression, ...]:
    return core.arguments if isinstance(core, Apply) and core.op == "*" else (core,)


def _as_power(factor: Expression) -> tuple[Expression, int]:
    if is_integer_power(factor):
        base, exponent = factor.arguments  # type: ignore[union-attr]
        return base, int(exponent.value)  # type: ignore[union-attr]
    return factor, 1


def _product(a: Expression, b: Expression) -> Expression | None:
    """Two cores multiplied: like factors become one power, unless there are many; None for 1."""
    factors = (*_factors(a), *_factors(b))
    if len(factors) > FACTORS:
        return Apply("*", (a, b))
    powers: dict[Expression, int] = {}
    for base, power in map(_as_power, factors):
        powers[base] = powers.get(base, 0) + power
    return _joined([(base, power) for base, power in powers.items() if power])


def _joined(factors: list[tuple[Expression, int]]) -> Expression | None:
    written = tuple(
        base if power == 1 else Apply("**", (base, Constant(Fraction(power))))
        for base, power in factors
    )
    if len(written) < 2:
        return written[0] if written else None
    return Apply("*", written)
