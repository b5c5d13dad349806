"""How many tokens can be drafted for an answer, whatever pays: there must be room to read them."""

from __future__ import annotations

from collections.abc import Sequence

from ....formula import Term
from ....formula.algebra.liveness import needed_terms
from ...binding.bound import Bound
from ...requests.answer import Answer
from ...requests.request import Request


def can_draft(bound: Bound, plan: int, request: Request) -> bool:
    """Whether a request has rows of all terms that a draft plan needs for it."""
    draft, first = bound.draft_plans[plan], bound.first_scalars[plan]
    terms = needed_terms(draft.plan, request.values[first:])
    own = needed_terms(bound.plan, request.values)
    others = {term.term for term in bound.draft_terms}
    return bool(terms) and terms <= own | others


def most_drafted(bound: Bound, plan: int | None, answer: Answer, room: int) -> int:
    """Tokens that may be drafted next, at most.

    Args:
        bound: the plan and its draft plans.
        plan: of the draft plans, the one that draws; None where no model does.
        answer: so far.
        room: tokens that it may still have.
    """
    request, read = answer.request, len(answer.tokens)
    if request.draft is None:
        return 0
    most = min(request.draft.longest, room - 1)  # the formula draws one more
    if plan is not None and (positions := bound.draft_plans[plan].positions) is not None:
        most = min(most, positions - _longest(bound, plan, request) - read)
    for (reads, tokens), before in zip(request.rooms, answer.read_by_others, strict=True):
        longest = max(map(len, reads))
        most = min(most, (tokens - before) // longest - 1)
    return max(0, most)


def readable(bound: Bound, tokens: Sequence[int]) -> list[int]:
    """The first of some tokens that every model of a formula reads."""
    maps = [term.token_map.reads for term in bound.own_terms if term.token_map is not None]
    for number, token in enumerate(tokens):
        if token >= bound.vocabulary or not all(reads[token] for reads in maps):
            return list(tokens[:number])
    return list(tokens)


def _longest(bound: Bound, plan: int, request: Request) -> int:
    """Tokens of the longest prompt that a draft plan reads."""
    prompts: dict[Term, Sequence[int]] = {
        bound_term.term: ids
        for terms, read in (
            (bound.terms, request.prompts),
            (bound.draft_terms, request.draft_prompts),
        )
        for bound_term, ids in zip(terms, read, strict=True)
    }
    return max(len(prompts[term.term]) for term in bound.draft_plans[plan].terms)
