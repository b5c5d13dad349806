"""The terms that a row needs with its numbers, and the nodes that every step evaluates."""

from __future__ import annotations

from collections.abc import Sequence

from ..nodes import Node, Read, Scalar, children
from ..plan import Plan
from ..terms import Term
from ..words.operators import Where


def always(node: Node) -> set[Node]:
    """The nodes that every step evaluates, whatever its conditions are."""
    if isinstance(node, Where):
        condition = set() if isinstance(node.condition, Scalar) else always(node.condition)
        return {node} | condition | (always(node.x) & always(node.y))
    return {node}.union(*(always(child) for child in children(node)))


def needed(plan: Plan, node: Node, values: Sequence[float]) -> set[Term]:
    """The terms that a row with these values depends on: those behind no coefficient of 0."""
    return {below.term for below in plan.running(node, values) if isinstance(below, Read)}
