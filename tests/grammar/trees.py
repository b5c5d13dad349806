"""Random trees that the grammar can produce, and what the tests ask of a tree.

Trees are built from nodes, never from text, so that the round trip has two independent ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from hypothesis import strategies as st

from descant.grammar import (
    Added,
    Argument,
    Binary,
    Call,
    Entry,
    Mapping,
    Name,
    Node,
    Number,
    Pipeline,
    Prompted,
    Text,
    Tuple,
    Unary,
    parse,
    text,
)

names = st.builds(
    Name,
    st.sampled_from(["base", "arm_help", "a", "_x1", "none", "e5", "android", "E", "notes"])
    | st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True).filter(
        lambda name: name not in ("and", "or", "not")
    ),
)
numbers = st.builds(
    Number,
    st.builds(Fraction, st.integers(0, 10**12), st.sampled_from([10**k for k in range(13)]))
    | st.sampled_from([Fraction(1, 10**300), Fraction(10**300), Fraction(15, 10**9)])
    | st.floats(min_value=0, allow_infinity=False).map(Fraction),
)
strings = st.builds(Text, st.text(max_size=12))
_unseen = st.builds(Name, st.just("noimage"))
_one_prompt = st.builds(
    Prompted, names, names.filter(lambda name: name.name != "noimage") | strings
)
prompted = st.builds(Prompted, names, names | strings) | st.builds(Prompted, _one_prompt, _unseen)


def _in_order(arguments: list[Argument]) -> tuple[Argument, ...]:
    """The same arguments without a name twice, or a plain argument after a named one."""
    seen: set[str] = set()
    kept = []
    for one in arguments:
        if one.name is not None and one.name.name in seen:
            continue
        if one.name is None and one.weight is None and seen:
            continue
        seen |= {one.name.name} if one.name else set()
        kept.append(one)
    return tuple(kept)


BINARY = ["+", "-", "*", "/", "**", "+", "-", "*", "<", "<=", ">", ">=", "and", "or"]


@st.composite
def _calls(draw: st.DrawFn, parts: st.SearchStrategy[Node]) -> Call:
    arguments = []
    for kind in draw(st.lists(st.sampled_from(["plain", "keyword", "weighted"]), max_size=4)):
        name = draw(names) if kind == "keyword" else None
        weight = draw(parts) if kind == "weighted" else None
        arguments.append(Argument(draw(parts), name, weight))
    return Call(draw(names), _in_order(arguments))


@st.composite
def _grown(draw: st.DrawFn, parts: st.SearchStrategy[Node]) -> Node:
    kinds = ["binary", "binary", "unary", "call", "tuple", "mapping", "added", "pipeline"]
    match draw(st.sampled_from(kinds)):
        case "binary":
            return Binary(draw(st.sampled_from(BINARY)), draw(parts), draw(parts))
        case "unary":
            return Unary(draw(st.sampled_from(["-", "+", "not"])), draw(parts))
        case "call":
            return draw(_calls(parts))
        case "tuple":
            return Tuple(tuple(draw(st.lists(parts, min_size=2, max_size=3))))
        case "mapping":
            entries = st.builds(Entry, numbers, parts)
            return Mapping(tuple(draw(st.lists(entries, min_size=1, max_size=3))))
        case "added":
            added = Added(draw(names), draw(parts))
            return Prompted(added, draw(names | strings)) if draw(st.booleans()) else added
    stages = draw(st.lists(_calls(parts), min_size=1, max_size=3))
    return Pipeline(draw(parts), tuple(stages))


trees: st.SearchStrategy[Node] = st.recursive(
    names | numbers | strings | prompted, _grown, max_leaves=25
)


def round_trip(tree: Node) -> None:
    """A tree's text gives the tree back, on one line, and is its own canonical text."""
    written = text(tree)
    assert parse(written) == tree, written
    assert text(parse(written)) == written
    assert len(written.splitlines()) == 1


def nodes(tree: Node) -> Iterator[Node]:
    """The tree and every node below it that could stand alone as a formula."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        match node:
            case Added(model, additions):
                todo += [model, additions]
            case Prompted(model, prompt):
                todo += [model, prompt]
            case Unary(_, operand):
                todo.append(operand)
            case Binary(_, left, right):
                todo += [left, right]
            case Tuple(items):
                todo += items
            case Mapping(entries):
                todo += [part for entry in entries for part in (entry.key, entry.value)]
            case Call(function, arguments):
                todo.append(function)
                for one in arguments:
                    todo += [part for part in (one.name, one.weight, one.value) if part]
            case Pipeline(head, stages):
                todo += [head, *stages]
