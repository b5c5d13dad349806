"""The stages of requests around a formula's own: another plan over the same lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...formula.nodes import StageAddress
from ...formula.request_fields import AFTER, BEFORE, Group
from ...formula.words import stages as words
from ...formula.words.stages import Stage
from .bound import Bound


def with_fields(bound: Bound, fields: tuple[bool, bool]) -> Bound:
    """The same formula over the same lanes, with stages of a request around its own (``Group``)."""
    group = Group(*fields)
    if not any(group):
        return bound
    plan, own = bound.plan, bound.plan.stages
    search = own[-1:] if plan.search else ()
    before: Sequence[Stage] = ()
    if group.before:
        before = (words.RequestBias(), *(each.made() for each in BEFORE))
    after = [each.made() for each in AFTER] if group.after else []
    changed = replace(plan, stages=(*before, *own[: len(own) - len(search)], *after, *search))

    def moved(address: StageAddress) -> StageAddress:
        owner, number = address
        if owner is not None:
            return address
        is_search = bool(search) and number == len(own) - 1
        return None, number + len(before) + len(after) * is_search

    rewards = {
        moved(address): tuple(replace(term, address=moved(address)) for term in terms)
        for address, terms in bound.rewards.items()
    }
    constraints = bound.constraints.of_plan(changed)
    return replace(
        bound, plan=changed, rewards=rewards, constraints=constraints, fields=group,
        without_fields=plan,
    )  # fmt: skip


def stages_by_owner(bound: Bound) -> tuple[tuple[Stage, ...], tuple[Stage, ...], tuple[Stage, ...]]:
    """A plan's stages: of the request, of the formula, and of the request again.

    What searches comes last whoever's it is.
    """
    stages = bound.plan.stages
    has_before, has_after = bound.fields
    before, after = (1 + len(BEFORE)) * has_before, len(AFTER) * has_after
    end = len(stages) - after - (bound.plan.search is not None) if after else len(stages)
    return stages[:before], stages[before:end], stages[end:]
