"""The nodes of a plan, frozen, and how to walk over them.

A node holds its numbers; every distinct one is a column of the runtime's tensor of values. Scores
that a number of the state is of are below the node that holds the number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from ..grammar.frozen import Frozen
from .scalar import Scalar
from .terms import Term
from .words.operators import Operator
from .words.signature import Signature
from .words.stages import Stage, TokenBias


@dataclass(frozen=True)
class Read(Frozen):
    """The log-probabilities of one term.

    With ``head``, a declared name, what that head gives of the term's row: log-probabilities too,
    or, of one that ``is_number``, that number, which a number of the state is of.
    """

    term: Term
    head: str = ""
    is_number: bool = False

    def __str__(self) -> str:
        return f"head({self.term}, {self.head})" if self.head else str(self.term)


@dataclass(frozen=True)
class Linear(Frozen):
    """``sum_i coefficient_i * part_i + shift``, in an order that does not depend on the writing."""

    parts: tuple[tuple[Scalar, Atom], ...]
    shift: Scalar | None = None


@dataclass(frozen=True)
class Staged(Frozen):
    """A formula in parentheses with stages of its own."""

    head: Scores
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class Predicate(Frozen):
    """A condition: two numbers compared, or one or two conditions joined."""

    op: str
    parts: tuple[Condition, ...]


Atom: TypeAlias = Read | Staged | Operator  # what a coefficient can stand before
Scores: TypeAlias = Linear | Atom
Condition: TypeAlias = Predicate | Scalar
Node: TypeAlias = Scores | Predicate
StageAddress: TypeAlias = "tuple[Staged | None, int]"  # of a stage: in which chain, and where in it


def walk(node: Node, value: Callable[[Scalar], float] = lambda _: 1.0) -> Iterator[Node]:
    """A node and everything below it, without rewards and what a ``value`` of 0 multiplies.

    What a number of the state is of comes once, however often that is written.
    """
    todo, visited = [node], set[int]()
    while todo:
        each = todo.pop()
        yield each
        inner = [
            child
            for number, child in weighted_children(each)
            if number is None or value(number) != 0
        ]
        for number, child in of_states(each):
            if id(child) not in visited and value(number) != 0:
                visited.add(id(child))
                inner.append(child)
        todo += reversed(inner)


def of_states(node: Node | Stage) -> Iterator[tuple[Scalar, Node]]:
    """What the numbers of the state in a node's own numbers are of, each with that number."""
    for number in numbers(node):
        for state in number.states:
            yield from ((number, scores) for scores in state.of)  # type: ignore[misc]


def weighted_children(node: Node) -> Iterator[tuple[Scalar | None, Node]]:
    """The nodes directly below a node, without numbers and rewards, each with its coefficient.

    Where that is 0, the child is not needed.
    """
    match node:
        case Linear():
            yield from node.parts
        case Staged():
            yield None, node.head
        case Predicate():
            yield from ((None, part) for part in node.parts if not isinstance(part, Scalar))
        case Operator():
            for key, item in type(node).arguments().items():
                value = getattr(node, key)
                match item.metadata["kind"]:
                    case "scores" | "condition" if not isinstance(value, Scalar):
                        yield None, value
                    case "many":
                        yield from ((None, part) for part in value)
                    case "weighted":
                        yield from value


def numbers(node: Node | Stage) -> Iterator[Scalar]:
    """The numbers that a node or a stage itself holds, and those known before a step in them."""
    match node:
        case Read(term):
            yield from (number for number, _ in term.additions)
        case Staged():
            for stage in node.stages:
                yield from numbers(stage)
        case Linear() | Predicate() | Signature():
            for item in fields(node):
                yield from _held(getattr(node, item.name))


def short_text(atom: Atom) -> str:
    """A part of a sum, without its arguments."""
    match atom:
        case Read():
            return str(atom)
        case Staged():
            return "(… | …)"
        case _:
            return f"{atom.name}(…)"


def _held(value: Any) -> Iterator[Scalar]:
    """The numbers in a field: one, a pair, those of a reward or of scores, or weights."""
    match value:
        case Scalar() if value.terms:
            for part in value.parts:
                yield from _held(part)
        case Scalar():
            yield value
            yield from value.known
        case Linear():
            yield from numbers(value)
        case TokenBias():
            yield from _held(value.number)
        case tuple():
            for item in value:
                yield from _held(item[0] if isinstance(item, tuple) else item)
