"""What the plan says of a formula whose components can be drawn: its cost, and what was drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ...formula.algebra.components import components, terms_of, why_no_components
from ...formula.printer import written
from ..batch.cost import si_bytes
from ..binding.bound import Bound
from ..scores.components import ALL


def component_lines(bound: Bound, params: Mapping[str, float], batch_size: int) -> list[str]:
    """What a step costs on average if so many rows draw a component each; none where none can."""
    if why_no_components(bound.plan, bound.mapped) is not None:
        return []
    line = "components  with sample_components=True each row and step runs one of them"
    if not bound.plan.params <= params.keys():
        return [f"{line}, by its weight"]
    parts = [(bound.plan.value(weight, params), part) for weight, part in components(bound.plan)]
    total = sum(weight for weight, _ in parts)
    idle = [1.0] * len(bound.lanes)  # per lane, the chance that a row does not need it
    for weight, part in parts:
        terms = terms_of(part)
        for lane in {term.lane for term in bound.terms if term.term in terms}:
            idle[lane] -= weight / total
    runs = [1 - max(0.0, chance) ** batch_size for chance in idle]
    pairs = zip(runs, bound.lanes, strict=True)
    read = sum(share * lane.footprint().weight_bytes for share, lane in pairs)
    forwards = f"{sum(runs):.3g} forward{'s' * (round(sum(runs), 2) != 1)}"
    return [f"{line}: on average {forwards}, {si_bytes(read)} of weights, and what it missed"]


def drawn_line(bound: Bound, drawn: Counter[int]) -> str:
    """How often each component was drawn in a run."""
    total, parts = drawn.total(), []
    for number, (_, part) in enumerate(components(bound.plan)):
        parts.append(f"{written(part)} {drawn[number] / total:.1%}")
    if drawn[ALL]:
        parts.append(f"all of them {drawn[ALL] / total:.1%}")
    return f"drawn       {', '.join(parts)} of {total:,} times"
