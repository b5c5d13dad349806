"""Like terms collected, exactly: the only file that uses sympy.

sympy gets polynomials and their ratios over anonymous symbols, built from our nodes and never from
text. Functions and other powers are symbols to it, so that no formula keeps it busy for long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

from ...grammar import Argument, Call, Name, Node, Number, Pipeline, Prompted, Span, Text, Unary
from ...grammar.errors import Marked
from ...grammar.tree import left_spine
from ..names import NONE, Names
from ..nodes import Atom, Linear, Read, Scalar, short_text
from ..scalar import Apply, Constant, Expression, Parameter, evaluate, show
from ..terms import Term
from ..words.operators import Align
from ..words.signature import Limits

EXPONENT = 64  # the largest power of a parameter
DIGITS = 4096  # bits of the largest exact number
TERMS = 500  # of a coefficient that is multiplied out
QUOTIENT = 5000  # monomials in either side of a quotient, bounded by its degree

Sum = dict["Atom | None", tuple[Any, Span]]  # None for the number added to every score


class Collector(Marked):
    """Collects one formula's like terms.

    Each coefficient is a sympy expression while collecting, and one of our own scalar expressions
    once done.

    Attributes:
        spans: where each term was first written.
    """

    def __init__(self, source: str, names: Names, build: Callable[..., Atom | None]) -> None:
        """Collect over ``names``; ``build`` makes the atom of a node, or None for a number."""
        import sympy

        self.spans: dict[Term, Span] = {}
        self._build = build
        self._sympy, self.source, self._names = sympy, source, names
        self._symbol = cache(self._new_symbol)
        self._meanings: dict[Any, Expression] = {}

    def linear(self, node: Node) -> Linear:
        """A checked expression over scores or rewards, like terms collected.

        Raises:
            FormulaError: every coefficient is identically zero.
        """
        parts, shift = [], None
        for atom, (value, span) in self._linear(node).items():
            coefficient = self._simplify(value, span)
            if coefficient == Constant(Fraction(0)):
                continue
            if atom is None:
                shift = Scalar(coefficient, "the number added to the scores", span=span)
            else:
                what = f"the coefficient of {short_text(atom)}"
                parts.append((Scalar(coefficient, what, span=span), atom))
        if not parts:
            problem = "every model in this expression cancels out"
            raise self.error(problem, node.span, "its collected coefficients are all zero")
        return Linear(tuple(sorted(parts, key=lambda part: _order(part[1]))), shift)

    def total(self, node: Node, span: Span) -> Scalar:
        """The sum of the collected coefficients of a checked expression."""
        values = [value for atom, (value, _) in self._linear(node).items() if atom is not None]
        expression = self._simplify(self._sympy.Add(*values), span)
        return Scalar(expression, "the sum of the coefficients", Limits(0, above=True), span)

    def number(self, node: Node) -> Expression:
        """A checked scalar, simplified."""
        return self._simplify(self._scalar(node), node.span)

    def _linear(self, node: Node) -> Sum:
        head, chain = left_spine(node)
        out = self._head(head)
        for binary in chain:
            right = self._linear(binary.right)
            match binary.op:
                case "+" | "-":
                    sign = 1 if binary.op == "+" else -1
                    for atom, (coefficient, span) in right.items():
                        before, first = out.get(atom, (0, span))
                        out[atom] = (before + sign * coefficient, first)
                case "*":
                    left_is_number = set(out) <= {None}
                    scaled, by = (right, out) if left_is_number else (out, right)
                    out = _scaled(scaled, by.get(None, (self._sympy.S.Zero, node.span))[0])
                case "/":
                    by = right[None][0]
                    self._divisible(by, binary.right.span)
                    out = _scaled(out, 1 / by)
                case _:
                    value = self._power(out[None][0], right[None][0], binary.span)
                    out = {None: (value, binary.span)}
        return out

    def _head(self, node: Node) -> Sum:
        match node:
            case Name(name) if name not in self._names.params:
                return self._atom(Read(self._term(node)), node.span)
            case Prompted():
                return self._atom(Read(self._term(node)), node.span)
            case Call(Name(Align.name), (Argument(Name() | Prompted() as inner),)):
                return self._atom(Read(replace(self._term(inner), aligned=True)), node.span)
            case Call() | Pipeline() if (built := self._build(node)) is not None:
                return self._atom(built, node.span)
            case Unary(op, operand):
                return _scaled(self._linear(operand), -1 if op == "-" else 1)
        return {None: (self._scalar(node), node.span)}

    def _atom(self, atom: Atom, span: Span) -> Sum:
        if isinstance(atom, Read):
            self.spans.setdefault(atom.term, span)
        return {atom: (self._sympy.S.One, span)}

    def _term(self, node: Name | Prompted) -> Term:
        if isinstance(node, Name):
            return Term(node.name)
        match node.prompt:
            case Text(value):
                return Term(node.model.name, system=value)
            case Name(name) if name == NONE:
                return Term(node.model.name, alone=True)
            case Name(name):
                return Term(node.model.name, system=self._names.prompts[name])

    def _scalar(self, node: Node) -> Any:
        match node:
            case Number(value):
                return self._sympy.Rational(value.numerator, value.denominator)
            case Name(name):
                return self._symbol(Parameter(name))
            case Call(function, arguments):
                inner = tuple(self.number(argument.value) for argument in arguments)
                return self._opaque(Apply(function.name, inner), node.span)
            case _:
                return self._linear(node).get(None, (self._sympy.S.Zero, node.span))[0]

    def _power(self, base: Any, exponent: Any, span: Span) -> Any:
        if not exponent.is_Integer:
            inner = (self._simplify(base, span), self._simplify(exponent, span))
            return self._opaque(Apply("**", inner), span)
        power = int(exponent)
        if base.is_Rational:
            small = abs(base.p) <= 1 and base.q == 1
            if not small and _bits(base) * abs(power) > DIGITS:
                raise self.error("this number is too large to work with", span)
        elif abs(power) > EXPONENT:
            raise self.error(f"a power of a parameter may be at most {EXPONENT}", span)
        if power < 0:
            self._divisible(base, span)
        return base**power

    def _divisible(self, value: Any, span: Span) -> None:
        if value == 0 or self._simplify(value, span) == Constant(Fraction(0)):
            raise self.error("this divides by zero", span)

    def _opaque(self, expression: Apply, span: Span) -> Any:
        """The value where the arguments are constants, else a symbol for the expression."""
        if not all(isinstance(argument, Constant) for argument in expression.arguments):
            return self._symbol(expression)
        value = evaluate(expression, {})
        if not math.isfinite(value):
            raise self.error(f"{show(expression)} is not a finite number", span)
        exact = Fraction(value)
        return self._sympy.Rational(exact.numerator, exact.denominator)

    def _new_symbol(self, expression: Expression) -> Any:
        # sympy orders symbols by name: without one, by which was written first.
        symbol = self._sympy.Dummy(show(expression), real=True)
        self._meanings[symbol] = expression
        return symbol

    def _simplify(self, value: Any, span: Span) -> Expression:
        value = self._sympy.sympify(value)  # an int of ours, never text
        if _terms(value) > TERMS:
            raise self.error("this coefficient is too long when it is multiplied out", span)
        if not value.is_number:
            over, under = value.as_numer_denom()
            ratio, terms = not under.is_number, _terms(over) + _terms(under)
            if ratio and (terms > TERMS or _monomials(over, under) > QUOTIENT):
                raise self.error("this quotient is too long when it is multiplied out", span)
            value = self._sympy.cancel(over / under) if ratio else self._sympy.expand(value)
        if any(_bits(number) > DIGITS for number in value.atoms(self._sympy.Rational)):
            raise self.error("this number is too large to work with", span)
        return self._ours(value)

    def _ours(self, value: Any) -> Expression:
        if value.is_Rational:
            return Constant(Fraction(int(value.p), int(value.q)))
        if value.is_Symbol:
            return self._meanings[value]
        inner = [self._ours(argument) for argument in value.args]
        if value.is_Pow:
            return Apply("**", tuple(inner))
        inner.sort(key=lambda item: (not isinstance(item, Constant), show(item)))
        return Apply("+" if value.is_Add else "*", tuple(inner))


def _order(atom: Atom) -> tuple[object, ...]:
    """The order of parts in a sum: the same for every way of writing it."""
    return (0, atom.term.key) if isinstance(atom, Read) else (1, repr(atom))


def _scaled(linear: Sum, by: Any) -> Sum:
    return {term: (coefficient * by, span) for term, (coefficient, span) in linear.items()}


def _bits(number: Any) -> int:
    return max(int(number.p).bit_length(), int(number.q).bit_length())


def _terms(value: Any) -> float:
    """An upper bound on the terms of the expression when multiplied out."""
    if not value.args:
        return 1
    inner: Iterable[float] = (_terms(argument) for argument in value.args)
    if value.is_Add:
        return sum(inner)
    if value.is_Mul:
        return math.prod(inner)
    base, power = _terms(value.args[0]), abs(int(value.args[1]))
    return math.comb(int(min(base, TERMS)) + power - 1, power) if base > 1 else 1


def _monomials(over: Any, under: Any) -> int:
    """An upper bound on the terms of anything that divides one of two polynomials."""
    symbols = len(over.free_symbols | under.free_symbols)
    return math.comb(max(_degree(over), _degree(under)) + symbols, symbols)


def _degree(value: Any) -> int:
    """An upper bound on the total degree of a polynomial."""
    if not value.args:
        return int(value.is_Symbol)
    if value.is_Add:
        return max(map(_degree, value.args))
    if value.is_Mul:
        return sum(map(_degree, value.args))
    return _degree(value.args[0]) * abs(int(value.args[1]))
