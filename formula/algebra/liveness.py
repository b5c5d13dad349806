"""The terms that a row needs with its numbers, and the nodes that every step evaluates."""

from __future__ import annotations

from collections.abc import Sequence

from ...grammar.unrolled import Steps, unrolled
from ..nodes import Node, Read, of_states, weighted_children
from ..plan import Plan
from ..scalar import Apply, Scalar, TermNumber
from ..terms import Term
from ..words.operators import Where


def always(node: Node) -> set[Node]:
    """The nodes that every step evaluates, whatever its conditions are."""
    return unrolled(_always(node, {}))


def _always(node: Node, known: dict[int, set[Node]]) -> Steps[set[Node]]:
    """``known``: what was found below scores that numbers of the state are of, by their ids."""
    found = {node}
    for _, scores in of_states(node):
        if id(scores) not in known:
            known[id(scores)] = yield _always(scores, known)
        found |= known[id(scores)]
    if isinstance(node, Where):
        if not isinstance(node.condition, Scalar):
            found |= yield _always(node.condition, known)
        on_x: set[Node] = yield _always(node.x, known)
        on_y: set[Node] = yield _always(node.y, known)
        return found | (on_x & on_y)
    for _, child in weighted_children(node):
        found |= yield _always(child, known)
    return found


def always_of(plan: Plan) -> set[Node]:
    """The same of a plan: of its scores, of what its stages' numbers are of, and of states."""
    return set().union(*(always(node) for node in (*plan.roots, *plan.stateful)))


def weighed_terms(plan: Plan, reward: Scalar, values: Sequence[float]) -> set[Term]:
    """The terms of a reward expression that may matter to a row with these values.

    Those that it multiplies by 0, or raises to the power of 0, do not.
    """
    known = {part.expression: values[plan.columns[part]] for part in reward.parts}
    weighed, todo = set[Term](), [reward.expression]
    while todo:
        match todo.pop():
            case TermNumber(term):
                weighed.add(term)
            case Apply("*", arguments) if not any(known.get(each) == 0 for each in arguments):
                todo += arguments
            case Apply("**", (base, exponent)) if known.get(exponent) != 0:
                todo += base, exponent
            case Apply(op, arguments) if op not in ("*", "**"):
                todo += arguments
    return weighed


def needed_terms(plan: Plan, values: Sequence[float]) -> set[Term]:
    """The terms that a row with these values depends on: those behind no coefficient of 0."""
    return {node.term for node in plan.running(values) if isinstance(node, Read)}
