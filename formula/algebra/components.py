"""The components of a final mixture, of which a step may draw one in the place of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from ...grammar import FormulaError, Span
from ..nodes import Linear, Node, Read, Scalar, walk
from ..plan import Plan
from ..scalar import Constant
from ..terms import Term
from ..words.operators import Mix
from .liveness import always

LEAVE = "leave sample_components out"
_ONE = Constant(Fraction(1))


def components(plan: Plan) -> list[tuple[Scalar, Any]]:
    """The weights and the parts of the mixture that a plan's scores are; none of other scores."""
    node: Any = plan.scores
    while isinstance(node, Linear):
        [(coefficient, part), *more] = node.parts
        if more or node.shift is not None or coefficient.expression != _ONE:
            return []
        node = part
    return [*node.parts] if isinstance(node, Mix) else []


def terms_of(part: Node, certain: bool = False) -> set[Term]:
    """The terms of a part; or those alone that it needs whatever its conditions are."""
    below = always(part) if certain else walk(part)
    return {node.term for node in below if isinstance(node, Read)}


def why_no_components(plan: Plan, mapped: Sequence[Term] = ()) -> FormulaError | None:
    """Why no component can be drawn in the place of a formula, or None.

    Args:
        mapped: the terms of models of another vocabulary, as far as they are known.
    """
    everything = Span(0, len(plan.source))
    if not components(plan):
        problem = "sample_components=True draws one component of a mix, and this is no single mix"
        return plan.error(problem, everything, f"write mix(0.5: a, 0.5: b), or {LEAVE}")
    if plan.stages:
        names = ", ".join(stage.name for stage in plan.stages)
        problem = f"sample_components=True is for a mix with nothing after it, and here is {names}"
        cure = f"write stages into the components, mix(0.5: (a | top_k(50)), …), or {LEAVE}"
        return plan.error(problem, everything, cure)
    if plan.reranks:
        problem = "sample_components=True runs one component, and reward models judge in each step"
        return plan.error(problem, everything, f"leave rerank out, or {LEAVE}")
    if varying := next((weight for weight, _ in components(plan) if weight.states), None):
        problem = "sample_components=True draws by weights that are known before a step, not by"
        cure = f"weigh the components by numbers or parameters, or {LEAVE}"
        return plan.error(f"{problem} {varying}", varying.span, cure)
    for term in mapped:
        problem = f"sample_components=True takes no {term}: how much of its probability goes"
        why = "to the formula's tokens is known after its forward alone"
        cure = f"mix models of one vocabulary, or {LEAVE}"
        return plan.error(f"{problem} {why}", plan.spans[term], cure)
    return None
