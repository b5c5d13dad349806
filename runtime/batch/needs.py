"""Which terms a request needs, by its numbers: those behind no coefficient of 0."""

from __future__ import annotations

from typing import Any

from ...formula import Plan, Scalar, Term
from ...formula.algebra.liveness import needed_terms, weighed_terms
from ..requests.request import Request


def needs_term(plan: Plan, term: Term, request: Request) -> bool:
    """Whether a request needs a term of the scores."""
    return term in needed_terms(plan, request.values)


def needs_reward(plan: Plan, reward: Scalar, term: Term, w: Scalar | None, request: Any) -> bool:
    """Whether a request weighs a term of a reward expression, whose stage multiplies it by w."""
    if w is not None and request.values[plan.columns[w]] == 0:
        return False
    return term in weighed_terms(plan, reward, request.values)


def needs_to_draft(bound: Any, number: int, request: Request) -> bool:
    """Whether a request needs a term that only drafts have; none that cannot read its prompt."""
    term, length = bound.draft_terms[number].term, len(request.draft_prompts[number])
    for draft, first in zip(bound.draft_plans, bound.first_scalars, strict=True):
        plan = draft.plan
        if term in needed_terms(plan, request.values[first:]):
            return draft.positions is None or length < draft.positions
    return False


def fed_lanes(bound: Any) -> set[int]:
    """The lanes that read every token that is drawn; a reranking stage feeds its own."""
    address, _ = bound.plan.search or (None, None)
    terms = bound.all_terms
    return {term.lane for term in terms if term.language or term.address == address}
