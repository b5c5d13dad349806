"""What ``thinking`` of a formula needs: a model with marks of thought."""

from __future__ import annotations

import re

from ...grammar import Span
from ...grammar.tree import NOWHERE
from .bound import Bound


def check_thinking(bound: Bound) -> None:
    """Refuse ``thinking`` where no term has marks.

    Raises:
        FormulaError: says so, marked at the number.
    """
    for plan in (bound.plan, *(draft.plan for draft in bound.draft_plans)):
        states = (state for number in plan.scalars for state in number.states)
        if any(state.name == "thinking" for state in states) and bound.thoughts is None:
            problem = "thinking is 1 between a model's marks of thought, and no term has any"
            cure = "say them with a model, reasoning: {start: <think>, end: </think>}"
            match = re.search(r"(?<![\w@\"'])thinking(?!\w)", plan.source)
            raise plan.error(problem, Span(*match.span()) if match else NOWHERE, cure)


def thinking_lines(bound: Bound) -> list[str]:
    """The line of a plan that says between which marks it thinks."""
    if not bound.thinks or bound.thoughts is None:
        return []
    term, marks = (*bound.terms, *bound.draft_terms)[bound.thinking_term], bound.thoughts.marks
    return [f"thinking    between {marks.start} and {marks.end} of {term.term}"]
