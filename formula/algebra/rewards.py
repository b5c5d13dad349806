"""Reward expressions collected: rewards are symbols, like parts together, coefficients in front.

A part whose coefficient a row has at 0 does not matter to it, so that coefficients stay apart where
they are known before the text: ``(1 - a)*rm1 + a*rm2`` is not multiplied out.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from typing import Any, TypeAlias

from ...grammar import Added, Binary, Call, Name, Node, Prompted, Span, Unary
from ...grammar.unrolled import Steps
from ..names import ANSWER_LENGTH
from ..scalar import (
    OF_TEXTS,
    AnswerLength,
    Apply,
    Constant,
    Expression,
    Scalar,
    TermNumber,
    all_of_states,
    has,
    show,
)
from ..terms import Term
from ..words.operators import Align
from .linear import ONE, Collector
from .value import Value, added, constant, is_integer_power, multiplied, powered

# What is another number for each text, or None for the rest; and what each is multiplied by.
Parts: TypeAlias = "dict[Expression | None, list[Value]]"


class RewardCollector(Collector):
    """Collects the scores of a formula and its reward expressions.

    Attributes:
        reward_spans: where each term is first written in a reward expression, by that one's span.
    """

    def __init__(self, *collector: Any, varies: Callable[[Node], bool]) -> None:
        """Collect as a ``Collector``; ``varies`` says what is another number for each text."""
        super().__init__(*collector)
        self._varies = varies
        self.reward_spans: dict[tuple[Span, Term], Span] = {}
        self._inside: list[Span] = []  # the reward expressions around a node

    def reward(self, node: Node, what: str) -> Steps[Scalar]:
        """A checked reward expression.

        Raises:
            FormulaError: every model in it cancels out.
        """
        self._inside.append(node.span)
        reward = Scalar((yield self._collected(node)), what, span=node.span)
        self._inside.pop()
        if not reward.terms:
            problem = "every model in this expression cancels out"
            raise self.error(problem, node.span, "its collected coefficients are all zero")
        return reward

    def _scalar(self, node: Node) -> Steps[Value]:
        value: Value
        match node:
            case Name(name) if name == ANSWER_LENGTH:
                return self._symbol(AnswerLength())
            case Call(function, arguments) if self._varies(node) and function.name != Align.name:
                inner: list[Expression] = []
                for argument in arguments:
                    inner.append((yield self._collected(argument.value)))
                return self._opaque(Apply(function.name, tuple(inner)), node.span)
            case Name() | Added() | Prompted() | Call() if self._varies(node):
                term = (yield self._atom(node)).term
                self.reward_spans.setdefault((self._inside[-1], term), node.span)
                return self._symbol(TermNumber(term, str(term)))
        value = yield super()._scalar(node)
        return value

    def _collected(self, node: Node) -> Steps[Expression]:
        """A number in a reward expression, in its one form."""
        if not self._varies(node):
            return (yield self.number(node))
        parts: Parts = {}
        yield self._gather(node, ONE, parts)
        return self._sum_of(parts, node.span)

    def _gather(self, node: Node, by: Value, parts: Parts) -> Steps[None]:
        """Add ``by`` times a node to some parts."""
        match node:
            case _ if not self._varies(node):
                parts.setdefault(None, []).append(multiplied(by, (yield self._scalar(node))))
            case Unary(op, operand):
                yield self._gather(operand, -by if op == "-" else by, parts)
            case Binary("+" | "-" as op, left, right):
                yield self._gather(left, by, parts)
                yield self._gather(right, -by if op == "-" else by, parts)
            case Binary("*", left, right) if not (self._varies(left) and self._varies(right)):
                known, other = (right, left) if self._varies(left) else (left, right)
                value = multiplied(by, (yield self._scalar(known)))
                yield self._gather(other, self._checked(value, node.span), parts)
            case Binary("/", left, right) if not self._varies(right):
                value = self._inverse((yield self._scalar(right)), right.span)
                value = self._checked(multiplied(by, value), node.span)
                yield self._gather(left, value, parts)
            case _:
                value = yield self._scalar(node)
                yield self._split(self._simplified(value, node.span), by, parts)

    def _split(self, expression: Expression, by: Value, parts: Parts) -> Steps[None]:
        """Add ``by`` times a number in its one form to some parts."""
        if not has(OF_TEXTS, expression):
            value = yield self._value(expression)
            parts.setdefault(None, []).append(multiplied(by, value))
            return
        if isinstance(expression, Apply) and expression.op == "+":
            for each in expression.arguments:
                yield self._split(each, by, parts)
            return
        product, sums = ONE, list[Expression]()
        for factor in _factors(expression):
            if not has(OF_TEXTS, factor):
                by = multiplied(by, (yield self._value(factor)))
            elif _is(factor, "+"):
                sums.append(factor)
            else:
                inner = yield self._inner(factor)
                product = multiplied(product, (yield self._value(inner)))
        if len(sums) == 1 and _divides_by_no_sum(product):
            several: Parts = {}
            yield self._split(sums[0], ONE, several)
            for core, values in several.items():
                own = ONE if core is None else (yield self._value(core))
                self._include(multiplied(product, own), multiplied(by, added(values)), parts)
            return
        for each in sums:
            product = multiplied(product, self._symbol((yield self._inner(each))))
        self._include(product, by, parts)

    def _inner(self, factor: Expression) -> Steps[Expression]:
        """A factor whose sums have their coefficients in front, in powers too."""
        match factor:
            case Apply("+"):
                parts: Parts = {}
                yield self._split(factor, ONE, parts)
                return self._sum_of(parts, self._inside[-1])
            case Apply("**", (base, exponent)):
                return Apply("**", ((yield self._inner(base)), exponent))
        return factor

    def _value(self, expression: Expression) -> Steps[Value]:
        """A number as a value again."""
        match expression:
            case Constant(number):
                return constant(number)
            case Apply("+" | "*" as op, arguments):
                values: list[Value] = []
                for argument in arguments:
                    values.append((yield self._value(argument)))
                return added(values) if op == "+" else reduce(multiplied, values)
            case Apply("**", (base, Constant(exponent))) if is_integer_power(expression):
                return powered((yield self._value(base)), int(exponent))
        return self._symbol(expression)

    def _include(self, product: Value, by: Value, parts: Parts) -> None:
        core = None if product.core is None else _sorted_product(product.core)
        value = multiplied(by, constant(product.factor))
        parts.setdefault(core, []).append(value)

    def _sum_of(self, parts: Parts, span: Span) -> Expression:
        """The sum of some parts, in an order that does not depend on the writing."""
        written: list[Expression] = []
        for core in sorted((core for core in parts if core is not None), key=_order):
            total = added(parts[core])
            if not total.is_zero:
                written.append(_product(_factors(self._simplified(total, span)), core))
        rest = added(parts.get(None, []))
        if not rest.is_zero or not written:
            number = self._simplified(rest, span)
            written += number.arguments if _is(number, "+") else (number,)  # type: ignore[union-attr]
        return written[0] if len(written) == 1 else Apply("+", tuple(written))


def _is(expression: Expression, op: str) -> bool:
    return isinstance(expression, Apply) and expression.op == op


def _factors(expression: Expression) -> tuple[Expression, ...]:
    return expression.arguments if _is(expression, "*") else (expression,)  # type: ignore[union-attr]


def _product(coefficient: tuple[Expression, ...], core: Expression) -> Expression:
    one = Constant(Fraction(1))
    factors = (*(each for each in coefficient if each != one), *_factors(core))
    return factors[0] if len(factors) == 1 else Apply("*", factors)


def _sorted_product(core: Expression) -> Expression:
    factors = sorted(_factors(core), key=_order)
    return factors[0] if len(factors) == 1 else Apply("*", tuple(factors))


def _order(core: Expression) -> tuple[Any, ...]:
    """Terms by themselves first, as in every plan; the rest by their text."""
    if isinstance(core, TermNumber):
        return 0, core.term.key, ""
    return 1, (show(core, 1),), all_of_states(core)


def _divides_by_no_sum(product: Value) -> bool:
    """Whether a sum may be multiplied out by it."""
    for factor in () if product.core is None else _factors(product.core):
        match factor:
            case Apply("**", (Apply("+"), _)):
                return False
    return True
