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
    factors_of,
    has,
    show,
    summands,
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

    def reward(self, node: Node, what: str, with_model: bool = True) -> Steps[Scalar]:
        """A checked reward expression.

        ``with_model``: whether some model has to be left in it.

        Raises:
            FormulaError: every model in it cancels out.
        """
        self._inside.append(node.span)
        reward = Scalar((yield self._collected(node)), what, span=node.span)
        self._inside.pop()
        if with_model and not reward.terms:
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
            known: Expression = yield self.number(node)
            return known
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
            case Binary("*" | "/"):
                varying: list[tuple[Node, int]] = []
                for factor, power in _flattened(node):
                    if self._varies(factor):
                        varying.append((factor, power))
                        continue
                    value = yield self._scalar(factor)
                    value = value if power > 0 else self._inverse(value, factor.span)
                    by = self._checked(multiplied(by, value), node.span)
                if len(varying) == 1 and varying[0][1] > 0:
                    yield self._gather(varying[0][0], by, parts)
                    return
                product = ONE
                for factor, power in varying:
                    value = yield self._scalar(factor)
                    value = value if power > 0 else self._inverse(value, factor.span)
                    product = self._checked(multiplied(product, value), node.span)
                yield self._split(self._simplified(product, node.span), by, parts)
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
        for factor in factors_of(expression):
            if not has(OF_TEXTS, factor):
                by = multiplied(by, (yield self._value(factor)))
            elif _is_sum(factor):
                sums.append(factor)
            else:
                content, inner = yield self._inner(factor)
                by = multiplied(by, content)
                product = multiplied(product, (yield self._value(inner)))
        if len(sums) == 1 and _divides_by_no_sum(product):
            several: Parts = {}
            yield self._split(sums[0], ONE, several)
            for core, values in several.items():
                own = ONE if core is None else (yield self._value(core))
                self._include(multiplied(product, own), multiplied(by, added(values)), parts)
            return
        for each in sums:
            content, inner = yield self._inner(each)
            by, product = multiplied(by, content), multiplied(product, self._symbol(inner))
        self._include(product, by, parts)

    def _inner(self, factor: Expression) -> Steps[tuple[Value, Expression]]:
        """A factor whose sums have their coefficients in front, in powers too.

        A sum begins with a coefficient of 1, or with one that parameters decide: the number that it
        had comes first.
        """
        match factor:
            case Apply("+"):
                parts: Parts = {}
                yield self._split(factor, ONE, parts)
                content = _content(parts)
                return content, self._sum_of(parts, self._inside[-1], powered(content, -1))
            case Apply("**", (Apply("+") as base, Constant(exponent))) if is_integer_power(factor):
                content, inner = yield self._inner(base)
                return powered(content, int(exponent)), Apply("**", (inner, Constant(exponent)))
            case Apply("**", (Apply("+") as base, power)):
                parts = {}
                yield self._split(base, ONE, parts)
                return ONE, Apply("**", (self._sum_of(parts, self._inside[-1]), power))
        return ONE, factor

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

    def _sum_of(self, parts: Parts, span: Span, by: Value = ONE) -> Expression:
        """``by`` times the sum of some parts, in an order that does not depend on the writing."""
        written: list[Expression] = []
        for core in sorted((core for core in parts if core is not None), key=_order):
            total = multiplied(by, added(parts[core]))
            if not total.is_zero:
                written.append(_product(self._simplified(total, span), core))
        rest = multiplied(by, added(parts.get(None, [])))
        if not rest.is_zero or not written:
            number = self._simplified(rest, span)
            written += summands(number)
        return written[0] if len(written) == 1 else Apply("+", tuple(written))


def _flattened(node: Node) -> list[tuple[Node, int]]:
    """The factors of a product, those that it is divided by with -1, as they are written."""
    factors: list[tuple[Node, int]] = []
    todo = [(node, 1)]
    while todo:
        each, power = todo.pop()
        if isinstance(each, Binary) and each.op in "*/":
            todo += (each.right, power if each.op == "*" else -power), (each.left, power)
        else:
            factors.append((each, power))
    return factors


def _content(parts: Parts) -> Value:
    """The number before the first of some parts; 1 where parameters decide it."""
    first = min((core for core in parts if core is not None), key=_order, default=None)
    return ONE if first is None else constant(added(parts[first]).factor or 1)


def _is_sum(expression: Expression) -> bool:
    return isinstance(expression, Apply) and expression.op == "+"


def _product(coefficient: Expression, core: Expression) -> Expression:
    one = Constant(Fraction(1))
    factors = (*(each for each in factors_of(coefficient) if each != one), *factors_of(core))
    return factors[0] if len(factors) == 1 else Apply("*", factors)


def _sorted_product(core: Expression) -> Expression:
    factors = sorted(factors_of(core), key=_order)
    return factors[0] if len(factors) == 1 else Apply("*", tuple(factors))


def _order(core: Expression) -> tuple[Any, ...]:
    """Terms by themselves first, as in every plan; the rest by their text."""
    if isinstance(core, TermNumber):
        return 0, core.term.key, ""
    return 1, (show(core, 1),), all_of_states(core)


def _divides_by_no_sum(product: Value) -> bool:
    """Whether a sum may be multiplied out by it."""
    for factor in () if product.core is None else factors_of(product.core):
        match factor:
            case Apply("**", (Apply("+"), _)):
                return False
    return True
