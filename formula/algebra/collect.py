"""Coefficients collected into one form, exactly, within a budget: the only file that uses sympy.

The work is counted before any of it is done, never timed. sympy gets polynomials over anonymous
symbols, built from our nodes and never from text; functions and other powers are symbols to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any, TypeAlias

from ..scalar import (
    Apply,
    Constant,
    Expression,
    StateNumber,
    TermNumber,
    all_of_states,
    has,
    show,
)
from .quotient import MANY, Quotients, Size, Sizes, symbols_of

DIGITS = 4096  # bits of the largest exact number
TERMS = 500  # of a coefficient that is multiplied out
QUOTIENT = 5000  # monomials in either side of a quotient, bounded by its degree
WORK = 80_000  # of one formula: a microsecond or two each, see bench/planning.py
_LONG = "is too long when it is multiplied out"


class TooLong(Exception):
    """A coefficient that is too long for a reader once it is multiplied out; says what it is."""


class Expander:
    """Multiplies out the coefficients of one formula.

    Attributes:
        work: what has been done so far, in the unit of ``WORK``, which it never passes.
        kept: how many expressions are left as they are written.
    """

    def __init__(self) -> None:
        self.work = self.kept = 0
        self._known: dict[Expression, Expression] = {}
        self._text = cache(show)  # of symbols, which may be long

    def expanded(self, expression: Expression) -> Expression:
        """The one form of all ways to write an expression; as it is, where that is too much work.

        Raises:
            TooLong: it has too many terms.
        """
        if expression not in self._known:
            symbols = sorted(
                symbols_of(expression), key=lambda each: (self._text(each), all_of_states(each))
            )
            done = expression if expression in symbols else self._expanded(expression, symbols)
            self.kept += done is None
            self._known[expression] = done or expression
        return self._known[expression]

    def _expanded(self, expression: Expression, symbols: list[Expression]) -> Expression | None:
        """The same; None where that is too much work."""
        if not symbols:
            return expression
        sizes = Sizes()
        over, under = Quotients(sizes).of(expression)
        _check_length(over, under, len(symbols))
        terms = over.terms + under.terms
        writing = 100 + terms * (25 + len(symbols) // 4)
        if max(over.bits, under.bits) > DIGITS or not self._affords(sizes.work + writing):
            return None
        top, bottom = Quotients(_Polynomials(symbols)).of(expression)
        if not bottom.is_ground:
            if not self._affords(_work_of_cancelling(top, bottom, over.bits + under.bits)):
                return None
            try:
                top, bottom = top.cancel(bottom)
            except _gcd_failed():
                return None
        return _Writer(symbols, self._text).quotient(top, bottom)

    def _affords(self, work: int) -> bool:
        """Spend the work, if the budget has so much left."""
        if self.work + work > WORK:
            return False
        self.work += work
        return True


def _check_length(over: Size, under: Size, symbols: int) -> None:
    if under.terms == 1 and under.degree == 0:
        if over.terms > TERMS:
            raise TooLong(f"this coefficient {_LONG}")
        return
    degree = min(max(over.degree, under.degree), QUOTIENT)
    if over.terms + under.terms > TERMS or math.comb(degree + symbols, symbols) > QUOTIENT:
        raise TooLong(f"this quotient {_LONG}")


class _Polynomials:
    """Polynomials of sympy, one anonymous generator per symbol."""

    def __init__(self, symbols: list[Expression]) -> None:
        self._ring = _ring(1 << (len(symbols) - 1).bit_length())  # making one takes milliseconds
        self._generators = dict(zip(symbols, self._ring.gens, strict=False))

    def constant(self, value: Fraction) -> Any:
        return self._ring(self._ring.domain(value.numerator, value.denominator))

    def symbol(self, expression: Expression) -> Any:
        return self._generators[expression]

    def added(self, parts: list[Any]) -> Any:
        total = self._ring.zero
        for part in parts:
            total += part
        return total

    def multiplied(self, a: Any, b: Any) -> Any:
        return a * b

    def powered(self, base: Any, power: int) -> Any:
        return base**power


@cache
def _ring(generators: int) -> Any:
    from sympy import QQ
    from sympy.polys.rings import PolyRing

    return PolyRing([f"x{i}" for i in range(generators)], QQ, "lex")


@cache
def _gcd_failed() -> type[Exception]:
    from sympy.polys.polyerrors import HeuristicGCDFailed

    failed: type[Exception] = HeuristicGCDFailed
    return failed


def _work_of_cancelling(top: Any, bottom: Any, bits: int) -> int:
    """A bound on what sympy's heuristic gcd takes, which works on one integer per side.

    It puts numbers for the symbols, one after the other, so that the integers have as many digits
    as a polynomial that lacks no term, and at the end it divides both sides.
    """
    terms = len(top) + len(bottom)
    if len(top) == 1 or len(bottom) == 1:
        return 100 * terms
    degrees = zip(top.degrees(), bottom.degrees(), strict=True)
    length: int = bits * math.prod(max(pair) + 1 for pair in degrees) // 30
    return min(100 * terms + terms * terms // 4 + length + length * length // 5000, MANY)


class _Writer:
    """Makes our expressions of polynomials, in an order that does not depend on the writing.

    An expression goes with its text, by which it is sorted.
    """

    def __init__(self, symbols: list[Expression], text: Callable[..., str]) -> None:
        self._symbols, self._text = symbols, text
        self._of_states = any(has(StateNumber | TermNumber, each) for each in symbols)
        self._factor = cache(self._new_factor)

    def quotient(self, top: Any, bottom: Any) -> Expression:
        """A cancelled quotient."""
        if bottom.is_ground:
            return self._sum(top.quo_ground(bottom.LC))
        number, factors = Fraction(1), []
        for side, sign in ((top, 1), (bottom, -1)):
            if len(side) == 1:
                [(monomial, coefficient)] = side.terms()
                number *= _fraction(coefficient) ** sign
                factors += self._factors(monomial, sign)
            else:
                total = self._sum(side)
                factor = total if sign > 0 else Apply("**", (total, Constant(Fraction(-1))))
                factors.append((show(factor), factor))
        return self._product(number, factors)[1]

    def _sum(self, polynomial: Any) -> Expression:
        parts = [
            self._product(_fraction(coefficient), self._factors(monomial, 1))
            for monomial, coefficient in polynomial.terms()
        ]
        if len(parts) == 1:
            return parts[0][1]
        parts.sort(key=lambda part: (not isinstance(part[1], Constant), *self._order(part)))
        return Apply("+", tuple(part for _, part in parts)) if parts else Constant(Fraction(0))

    def _factors(self, monomial: tuple[int, ...], sign: int) -> list[_Written]:
        return [self._factor(i, sign * power) for i, power in enumerate(monomial) if power]

    def _new_factor(self, index: int, power: int) -> _Written:
        symbol = self._symbols[index]
        if power == 1:
            return self._text(symbol, 1), symbol
        text = self._text(symbol, 2) + f"**{abs(power)}" * (power != -1)
        return "1/" * (power < 0) + text, Apply("**", (symbol, Constant(Fraction(power))))

    def _product(self, number: Fraction, factors: list[_Written]) -> _Written:
        """A number times factors, the number first."""
        factors = sorted(factors, key=self._order)
        if not factors:
            return show(Constant(number)), Constant(number)
        texts = [text for text, _ in factors]
        if abs(number) != 1:
            texts.insert(0, show(Constant(abs(number)), 1))
        inner = tuple(factor for _, factor in factors)
        text = "-" * (number < 0) + "*".join(texts)
        if number != 1:
            return text, Apply("*", (Constant(number), *inner))
        return text, inner[0] if len(inner) == 1 else Apply("*", inner)

    def _order(self, part: _Written) -> tuple[str, str]:
        """By the text, and where that is cut, by all that it stands for."""
        return part[0], all_of_states(part[1]) if self._of_states else ""


_Written: TypeAlias = tuple[str, Expression]


def _fraction(number: Any) -> Fraction:
    return Fraction(int(number.numerator), int(number.denominator))
