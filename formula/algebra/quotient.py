"""One walk from an expression to a quotient of two polynomials: of polynomials, or of their sizes.

What a sum is over is found without computing: powers of one expression have the largest as their
common multiple. The sizes say what the polynomials will take, before one is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

from ...grammar.unrolled import Steps, unrolled
from ..scalar import Apply, Constant, Expression
from .value import is_integer_power

MANY = 10**12  # larger counts are cut to this


class Arithmetic(Protocol):
    """What can be added and multiplied."""

    def constant(self, value: Fraction) -> Any:
        """A number."""

    def symbol(self, expression: Expression) -> Any:
        """What is not looked into."""

    def added(self, parts: list[Any]) -> Any:
        """A sum."""

    def multiplied(self, a: Any, b: Any) -> Any:
        """A product."""

    def powered(self, base: Any, power: int) -> Any:
        """A power that is above 0."""


Under = dict[Expression, int]  # the powers, above 0, of expressions' upper sides


class Quotients:
    """The two sides of expressions, in some arithmetic."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self._arithmetic = arithmetic
        self._known: dict[Expression, tuple[Any, Under]] = {}

    def of(self, expression: Expression) -> tuple[Any, Any]:
        """What is above and what is below the line."""
        over, under = unrolled(self._quotient(expression))
        return over, self._times(self._arithmetic.constant(Fraction(1)), under)

    def _quotient(self, expression: Expression) -> Steps[tuple[Any, Under]]:
        if expression not in self._known:
            self._known[expression] = yield self._made(expression)
        return self._known[expression]

    def _made(self, expression: Expression) -> Steps[tuple[Any, Under]]:
        match expression:
            case Constant(value):
                return self._arithmetic.constant(value), {}
            case Apply("+" | "*" as op, arguments):
                parts: list[tuple[Any, Under]] = []
                for argument in arguments:
                    parts.append((yield self._quotient(argument)))
                return self._sum(parts) if op == "+" else self._product(parts)
            case Apply("**", (base, Constant(value))) if is_integer_power(expression):
                over, under = yield self._quotient(base)
                power = int(value)
                if power > 0:
                    powers = {each: power * times for each, times in under.items()}
                    return self._arithmetic.powered(over, power), powers
                powers = {each: -power * times for each, times in under.items()}
                one = self._arithmetic.constant(Fraction(1))
                return self._times(one, powers), {base: -power}
        return self._arithmetic.symbol(expression), {}

    def _sum(self, parts: list[tuple[Any, Under]]) -> tuple[Any, Under]:
        common: Under = {}
        for _, under in parts:
            for each, times in under.items():
                common[each] = max(times, common.get(each, 0))
        over = []
        for part, under in parts:
            missing = {each: times - under.get(each, 0) for each, times in common.items()}
            over.append(self._times(part, missing))
        return self._arithmetic.added(over), common

    def _product(self, parts: list[tuple[Any, Under]]) -> tuple[Any, Under]:
        product, below = self._arithmetic.constant(Fraction(1)), Under()
        for over, under in parts:
            product = self._arithmetic.multiplied(product, over)
            for each, times in under.items():
                below[each] = below.get(each, 0) + times
        return product, below

    def _times(self, product: Any, powers: Under) -> Any:
        for base, power in powers.items():
            if power:
                over = self._arithmetic.powered(self._known[base][0], power)
                product = self._arithmetic.multiplied(product, over)
        return product


@dataclass(frozen=True, slots=True)
class Size:
    """Upper bounds on a polynomial.

    Attributes:
        terms: how many it has.
        degree: its total degree.
        length: bits of the largest numerator, over one denominator.
        denominator: of all its numbers.
    """

    terms: int
    degree: int = 0
    length: int = 1
    denominator: int = 1

    @property
    def bits(self) -> int:
        """Of its largest number."""
        return max(self.length, self.denominator.bit_length())


class Sizes:
    """The arithmetic of sizes.

    Attributes:
        work: products of terms, each by the length of its numbers, that the polynomials would take.
    """

    def __init__(self) -> None:
        self.work = 0

    def constant(self, value: Fraction) -> Size:
        return Size(1, 0, value.numerator.bit_length(), value.denominator)

    def symbol(self, expression: Expression) -> Size:
        return Size(1, 1)

    def added(self, parts: list[Size]) -> Size:
        denominator = 1
        for part in parts:
            denominator = _cut(math.lcm(denominator, part.denominator))
        shared = denominator.bit_length()
        length = max(p.length + shared - p.denominator.bit_length() + 1 for p in parts)
        size = Size(
            min(sum(part.terms for part in parts), MANY),
            max(part.degree for part in parts),
            length + len(parts).bit_length(),
            denominator,
        )
        self._count(size.terms, size)
        return size

    def multiplied(self, a: Size, b: Size) -> Size:
        size = Size(
            min(a.terms * b.terms, MANY),
            a.degree + b.degree,
            a.length + b.length + min(a.terms, b.terms).bit_length() - 1,
            _cut(a.denominator * b.denominator),
        )
        self._count(size.terms, size)
        return size

    def powered(self, base: Size, power: int) -> Size:
        terms = base.terms
        if terms > 1 and power > 1:
            many = terms > 1000 or power > 1000
            terms = MANY if many else min(math.comb(terms + power - 1, power), MANY)
        length = power * (base.length + base.terms.bit_length() - 1)
        long = base.denominator.bit_length() * power > _LONGEST
        denominator = _cut(1 << _LONGEST) if long else base.denominator**power
        size = Size(terms, base.degree * power, length, denominator)
        self._count(terms * base.terms, size)
        return size

    def _count(self, products: int, size: Size) -> None:
        self.work = min(self.work + products * (2 + size.bits // 128), MANY)


_LONGEST = 2**14  # bits of a denominator: one that would have more has these


def _cut(number: int) -> int:
    return min(number, 1 << _LONGEST)


def symbols_of(expression: Expression) -> set[Expression]:
    """What an expression is a quotient of polynomials in."""
    found: set[Expression] = set()
    visited, todo = set(), [expression]
    while todo:
        each = todo.pop()
        if each in visited:
            continue
        visited.add(each)
        if isinstance(each, Apply) and (each.op in ("+", "*") or is_integer_power(each)):
            todo += each.arguments
        elif not isinstance(each, Constant):
            found.add(each)
    return found
