"""Like terms collected, exactly where that is not too much work, and kept as written elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ...grammar import (
    Added,
    Argument,
    Binary,
    Call,
    Name,
    Node,
    Number,
    Prompted,
    Span,
    Text,
    Unary,
)
from ...grammar.errors import Marked
from ...grammar.frozen import Frozen, shown
from ...grammar.unrolled import Steps
from ..names import NOIMAGE, NONE, STATE, Names
from ..nodes import Atom, Linear, Read, short_text
from ..printer import written
from ..scalar import (
    Apply,
    Constant,
    Expression,
    Parameter,
    Scalar,
    StateNumber,
    below,
    evaluate,
    show,
)
from ..terms import Term
from ..words.operators import Align, Head
from ..words.signature import Limits
from .collect import DIGITS, Expander, TooLong
from .value import Value, added, constant, multiplied, powered, symbol

EXPONENT = 64  # the largest power of a parameter
SIZE = 60_000  # numbers, parameters and operations in all coefficients of a formula together
ROOM = SIZE // 3  # of them, for what is multiplied out; what is inside functions counts again
STATE_TEXT = (
    10_000  # characters of a number of the state: one in another is written again and again
)
ONE = constant(1)

Sum = dict["Atom | None", tuple[list[Value], Span]]  # None for the number added to every score


class Collector(Marked):
    """Collects one formula's like terms.

    Attributes:
        spans: where each term was first written.
        heads: where each head of a term was first written.
        left_out: where each name was first written that is added 0 times to a model's weights.
        expander: multiplies out the coefficients, and counts the work.
    """

    def __init__(
        self,
        source: str,
        names: Names,
        is_scores: Callable[[Node], bool],
        build: Callable[[Any], Steps[Atom]],
    ) -> None:
        """Collect over ``names``; ``build`` makes the atom of a node."""
        self.spans: dict[Term, Span] = {}
        self.heads: dict[Read, Span] = {}
        self.left_out: dict[str, Span] = {}
        self.expander = Expander()
        self.source, self._names = source, names
        self._is_scores, self._build = is_scores, build
        self._size = 0
        self._sizes: dict[Expression, int] = {}
        self._symbols: dict[Expression, Value] = {}
        self._texts: dict[Frozen, str] = {}
        self._reads: dict[Read, Read] = {}

    def linear(self, node: Node) -> Steps[Linear]:
        """A checked expression over scores or rewards, like terms collected.

        Raises:
            FormulaError: every coefficient is identically zero.
        """
        collected = yield self._sum(node)
        shift = None
        if None in collected:
            value, span = collected.pop(None)
            if not value.is_zero:
                number = self._simplified(value, span)
                shift = Scalar(number, "the number added to the scores", span=span)
        parts = []
        for atom in self._sorted(
            [atom for atom, (value, _) in collected.items() if not value.is_zero]
        ):
            value, span = collected[atom]
            what = f"the coefficient of {short_text(atom)}"
            parts.append((Scalar(self._simplified(value, span), what, span=span), atom))
        if not parts:
            problem = "every model in this expression cancels out"
            raise self.error(problem, node.span, "its collected coefficients are all zero")
        return Linear(tuple(parts), shift)

    def total(self, node: Node, span: Span) -> Steps[Scalar]:
        """The sum of the collected coefficients of a checked expression."""
        collected = yield self._sum(node)
        values = added(value for atom, (value, _) in collected.items() if atom is not None)
        expression = self._simplified(values, span)
        return Scalar(expression, "the sum of the coefficients", Limits(0, above=True), span)

    def number(self, node: Node) -> Steps[Expression]:
        """A checked scalar, simplified."""
        return self._simplified((yield self._scalar(node)), node.span)

    def _sum(self, node: Node) -> Steps[dict[Atom | None, tuple[Value, Span]]]:
        """The coefficient of each part of a sum, and of 1, and where the part is first written."""
        out: Sum = {}
        yield self._collect(node, ONE, out)
        return {atom: (added(values), span) for atom, (values, span) in out.items()}

    def _collect(self, node: Node, by: Value, out: Sum) -> Steps[None]:
        """Add ``by`` times a node to a sum."""
        match node:
            case _ if not self._is_scores(node):
                value = yield self._scalar(node)
                out.setdefault(None, ([], node.span))[0].append(multiplied(by, value))
            case Unary(op, operand):
                yield self._collect(operand, -by if op == "-" else by, out)
            case Binary("+" | "-" as op, left, right):
                yield self._collect(left, by, out)
                yield self._collect(right, -by if op == "-" else by, out)
            case Binary("*", left, right):
                number, scores = (right, left) if self._is_scores(left) else (left, right)
                value = yield self._scalar(number)
                yield self._collect(scores, self._checked(multiplied(by, value), node.span), out)
            case Binary("/", left, right):
                value = yield self._scalar(right)
                by = multiplied(by, self._inverse(value, right.span))
                yield self._collect(left, self._checked(by, node.span), out)
            case _:
                atom = yield self._atom(node)
                out.setdefault(atom, ([], node.span))[0].append(by)

    def _atom(self, node: Node) -> Steps[Atom]:
        match node:
            case Name() | Added() | Prompted():
                term = yield self._term(node)
            case Call(Name(Align.name), (Argument(Name() | Added() | Prompted() as inner),)):
                term = replace((yield self._term(inner)), aligned=True)
            case _:
                atom: Atom = yield self._build(node)
                return atom
        self.spans.setdefault(term, node.span)
        return self._one(Read(term))

    def head(self, model: Any, head: Any, span: Span) -> Steps[Read]:
        """What a declared head reads of a model's row."""
        is_number = not self._names.heads[head.name].gives_scores
        read = Read((yield self._term(model)), head.name, is_number)
        self.spans.setdefault(read.term, model.span)
        self.heads.setdefault(read, span)
        return self._one(read)

    def _one(self, read: Read) -> Read:
        """The same object for all that are equal: a step looks it up without comparing."""
        return self._reads.setdefault(read, read)

    def _term(self, node: Name | Added | Prompted) -> Steps[Term]:
        if isinstance(node, Name):
            return Term(node.name)
        if isinstance(node, Added):
            return Term(node.model.name, additions=(yield self._additions(node)))
        term: Term = yield self._term(node.model)
        match node.prompt:
            case Text(value):
                return replace(term, system=value)
            case Name(name) if name == NONE:
                return replace(term, alone=True)
            case Name(name) if name == NOIMAGE:
                return replace(term, noimage=not term.alone)
            case Name(name):
                return replace(term, system=self._names.prompts[name])

    def _additions(self, node: Added) -> Steps[tuple[tuple[Scalar, str], ...]]:
        """What is added to a model's weights, like names together, without what cancels out."""
        parts: dict[str, tuple[list[Value], Span]] = {}
        yield self._add(node.additions, ONE, parts)
        additions: list[tuple[Scalar, str]] = []
        for name in sorted(parts):
            values, span = parts[name]
            value = added(values)
            if value.is_zero:
                self.left_out.setdefault(name, span)
                continue
            what = f"the weight of {name} in {node.model.name}[…]"
            additions.append((Scalar(self._simplified(value, span), what, span=span), name))
        return tuple(additions)

    def _add(self, node: Node, by: Value, out: dict[str, tuple[list[Value], Span]]) -> Steps[None]:
        """Add ``by`` times what is in brackets."""
        match node:
            case Name(name):
                out.setdefault(name, ([], node.span))[0].append(by)
            case Unary(op, operand):
                yield self._add(operand, -by if op == "-" else by, out)
            case Binary("+" | "-" as op, left, right):
                yield self._add(left, by, out)
                yield self._add(right, -by if op == "-" else by, out)
            case Binary(op, left, right):
                number, what = (right, left) if self._is_scores(left) else (left, right)
                value = yield self._scalar(number)
                value = self._inverse(value, number.span) if op == "/" else value
                yield self._add(what, self._checked(multiplied(by, value), node.span), out)

    def _scalar(self, node: Node) -> Steps[Value]:
        """A number, as it is written, with constants worked out."""
        result: Value
        match node:
            case Number(number):
                result = constant(number)
            case Name(name) if name in self._names.params:
                result = self._symbol(Parameter(name))
            case Name(name):
                result = self._symbol(StateNumber(name, (), name))
            case Call(function, arguments) if function.name in STATE:
                of: list[Linear] = []
                for argument in arguments:
                    of.append((yield self.linear(argument.value)))
                result = self._symbol(self._state(function.name, of, node.span))
            case Call(function) if function.name == Head.name:
                read = yield self._build(node)
                result = self._symbol(StateNumber(function.name, (read,), str(read)))
            case Call(function, arguments):
                inner: list[Expression] = []
                for argument in arguments:
                    inner.append((yield self.number(argument.value)))
                result = self._opaque(Apply(function.name, tuple(inner)), node.span)
            case Unary(op, operand):
                inside = yield self._scalar(operand)
                result = -inside if op == "-" else inside
            case _:
                result = yield self._binary(node)
        return result

    def _state(self, name: str, of: list[Linear], span: Span) -> StateNumber:
        text = f"{name}({', '.join(map(written, of))})"
        if len(text) > STATE_TEXT:
            problem = f"{name} is of too long a formula, once its like terms are collected"
            raise self.error(problem, span, "write fewer terms")
        return StateNumber(name, tuple(of), text)

    def _binary(self, node: Any) -> Steps[Value]:
        """A sum is collected over its whole spine, and so in one step."""
        if node.op in "+-":
            parts: list[Value] = []
            left: Node = node
            while isinstance(left, Binary) and left.op in "+-":
                value = yield self._scalar(left.right)
                parts.append(value if left.op == "+" else -value)
                left = left.left
            parts.append((yield self._scalar(left)))
            return self._checked(added(reversed(parts)), node.span)
        a, b = (yield self._scalar(node.left)), (yield self._scalar(node.right))
        match node.op:
            case "*":
                value = multiplied(a, b)
            case "/":
                value = multiplied(a, self._inverse(b, node.right.span))
            case _:
                return self._power(a, b, node.span)
        return self._checked(value, node.span)

    def _power(self, base: Value, exponent: Value, span: Span) -> Value:
        over = self._simplified(exponent, span)
        if not (isinstance(over, Constant) and over.value.denominator == 1):
            return self._opaque(Apply("**", (self._simplified(base, span), over)), span)
        power = int(over.value)
        if base.core is not None and abs(power) > EXPONENT:
            expression = self._simplified(base, span)
            if not isinstance(expression, Constant):
                raise self.error(f"a power of a parameter may be at most {EXPONENT}", span)
            base = constant(expression.value)
        if base.core is None:
            small = abs(base.factor.numerator) <= 1 and base.factor.denominator == 1
            if not small and _bits(base.factor) * abs(power) > DIGITS:
                raise self.error("this number is too large to work with", span)
        elif _bits(base.factor) * abs(power) > 2 * DIGITS:
            raise self.error("this number is too large to work with", span)
        if power < 0:
            self._check_divisible(base, span)
        return powered(base, power)

    def _inverse(self, value: Value, span: Span) -> Value:
        self._check_divisible(value, span)
        return powered(value, -1)

    def _check_divisible(self, value: Value, span: Span) -> None:
        if value.is_zero:
            raise self.error("this divides by zero", span)

    def _checked(self, value: Value, span: Span) -> Value:
        """A value whose number is not too large on the way: twice what is allowed at the end."""
        if _bits(value.factor) > 2 * DIGITS:
            raise self.error("this number is too large to work with", span)
        return value

    def _opaque(self, expression: Apply, span: Span) -> Value:
        """The value where the arguments are constants, else a symbol for the expression."""
        if not all(isinstance(argument, Constant) for argument in expression.arguments):
            return self._symbol(expression)
        value = evaluate(expression, {})
        if not math.isfinite(value):
            raise self.error(f"{show(expression)} is not a finite number", span)
        return constant(Fraction(value))

    def _symbol(self, expression: Expression) -> Value:
        if expression not in self._symbols:
            self._symbols[expression] = symbol(expression)
        return self._symbols[expression]

    def _simplified(self, value: Value, span: Span) -> Expression:
        """The value in its one form, or as it is written where that is too much work."""
        if value.is_zero:
            return Constant(Fraction(0))
        try:
            expression = self.expander.expanded(value.expression)
        except TooLong as error:
            raise self.error(str(error), span) from None
        size = self._measured(expression, span)
        if self._size + size > ROOM:
            self.expander.kept += expression != value.expression
            expression = value.expression
            size = self._measured(expression, span)
        self._size += size
        if self._size > SIZE:
            problem = "the coefficients up to here are too long to work with"
            raise self.error(problem, span, "write fewer terms, or shorter coefficients")
        return expression

    def _measured(self, expression: Expression, span: Span) -> int:
        """How many numbers, parameters and operations an expression has."""
        if expression not in self._sizes:
            count = 0
            for each in below(expression):
                count += 1
                if count > SIZE:
                    break
                if isinstance(each, Constant) and _bits(each.value) > DIGITS:
                    raise self.error("this number is too large to work with", span)
            self._sizes[expression] = count
        return self._sizes[expression]

    def _sorted(self, atoms: list[Atom]) -> list[Atom]:
        """The parts of a sum in an order that is the same for every way of writing it."""
        reads = [atom for atom in atoms if isinstance(atom, Read)]
        others = [atom for atom in atoms if not isinstance(atom, Read)]
        reads.sort(key=lambda atom: (atom.term.key, atom.head))
        if len(others) > 1:
            others.sort(key=lambda atom: shown(atom, self._texts))
        return [*reads, *others]


def _bits(number: Fraction) -> int:
    return max(number.numerator.bit_length(), number.denominator.bit_length())
