"""The syntax tree: what was written, and where. It must not know what any name means.

Every node is frozen and compares by what was written, never by where: two spellings of one formula
give equal trees. A span is a half-open range of character offsets into the formula.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from .frozen import Frozen

NOIMAGE = "noimage"  # after a model, and after its prompt


class Span(NamedTuple):
    """Characters ``start`` up to, not including, ``end``."""

    start: int
    end: int


NOWHERE = Span(0, 0)  # the span of a node that no text was written for


def _span() -> Span:
    return field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number(Frozen):
    """``0.5``: an exact fraction, made once."""

    value: Fraction
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Text(Frozen):
    """``"You are a child."``: a quoted string, unescaped."""

    value: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Name(Frozen):
    """``base``: a model, a parameter, a prompt or a built-in; the checker finds out which."""

    name: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Added(Frozen):
    """``base[0.5*arm + honest]``: a model's weights with others added to them."""

    model: Name
    additions: Node
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Prompted(Frozen):
    """``chat@child``, ``chat@"You are a child."``, ``chat@none``: a model under another prompt.

    ``chat@noimage`` leaves out the images; ``chat@child@noimage`` is ``chat@child`` without them.
    """

    model: Name | Added | Prompted
    prompt: Name | Text
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unary(Frozen):
    """``-x``, ``+x``, ``not x``."""

    op: str
    operand: Node
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary(Frozen):
    """``x + y``: one of ``+ - * / **``, ``< <= > >=``, ``and or``."""

    op: str
    left: Node
    right: Node
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Tuple(Frozen):
    """``(0, 1)``: two values or more, as in ``clamp=(0, 1)``."""

    items: tuple[Node, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Entry(Frozen):
    """``50256: -100``: a token id and its number."""

    key: Number
    value: Node
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Mapping(Frozen):
    """``{11: -100, 13: 0.5}``: one entry or more."""

    entries: tuple[Entry, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Argument(Frozen):
    """One argument of a call: ``x``, ``k=10`` (``name``) or ``0.7: x`` (``weight``)."""

    value: Node
    name: Name | None = None
    weight: Node | None = None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Call(Frozen):
    """``rerank(reward, k=10)``: an operator, a scalar function, or a stage after ``|``."""

    function: Name
    arguments: tuple[Argument, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Pipeline(Frozen):
    """``head | stage | stage``: always at least one stage."""

    head: Node
    stages: tuple[Call, ...]
    span: Span = _span()


def left_spine(node: Node) -> tuple[Node, list[Binary]]:
    """Of ``a + b + c``, ``a`` and then the binary nodes, innermost first; without recursion."""
    chain = []
    while isinstance(node, Binary):
        chain.append(node)
        node = node.left
    return node, chain[::-1]


Node: TypeAlias = (
    Number | Text | Name | Added | Prompted | Unary | Binary | Tuple | Mapping | Call | Pipeline
)
