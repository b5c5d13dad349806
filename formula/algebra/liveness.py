"""The terms that a row needs with its numbers, and the nodes that every step evaluates."""

from __future__ import annotations

from collections.abc import Sequence

from ...grammar.unrolled import Steps, unrolled
from ..nodes import Node, Read, Scalar, children
from ..plan import Plan
from ..terms import Term
from ..words.operators import Where


def always(node: Node) -> set[Node]:
    """The nodes that every step evaluates, whatever its conditions are."""
    return unrolled(_always(node))


def _always(node: Node) -> Steps[set[Node]]:
    found = {node}
    if isinstance(node, Where):
        if not isinstance(node.condition, Scalar):
            found |= yield _always(node.condition)
        on_x: set[Node] = yield _always(node.x)
        on_y: set[Node] = yield _always(node.y)
        return found | (on_x & on_y)
    for child in children(node):
        found |= yield _always(child)
    return found


def needed(plan: Plan, node: Node, values: Sequence[float]) -> set[Term]:
    """The terms that a row with these values depends on: those behind no coefficient of 0."""
    return {below.term for below in plan.running(node, values) if isinstance(below, Read)}
