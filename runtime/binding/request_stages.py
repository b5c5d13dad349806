"""The fields of a request as stages around a formula's own: another plan over the same lanes.

Each field is a parameter of that plan, whose neutral value changes no score. No name of a
formula is that of such a parameter, which has spaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ...formula.nodes import StageAddress
from ...formula.scalar import Parameter, Scalar
from ...formula.words import stages as words
from ...formula.words.signature import Limits
from ...formula.words.stages import Stage
from .bound import Bound


class FieldStage(NamedTuple):
    """A field that is a number, and the stage that it is.

    Attributes:
        neutral: the value that changes nothing; None for the size of the vocabulary.
    """

    field: str
    stage: type[Stage]
    neutral: float | None

    @property
    def limits(self) -> Limits:
        """What its values may be."""
        [argument] = self.stage.arguments().values()
        limits: Limits = argument.metadata["limits"]
        return limits

    @property
    def parameter(self) -> str:
        """Of the plan with this field."""
        return f"{self.field} of the request"

    def made(self) -> Stage:
        """The stage, whose number is the parameter."""
        [key] = self.stage.arguments()
        return self.stage(**{key: Scalar(Parameter(self.parameter), self.field, self.limits)})


# In vLLM's order; a bias of tokens comes before them.
BEFORE = (
    FieldStage("min_tokens", words.MinTokens, 0),
    FieldStage("repetition_penalty", words.RepetitionPenalty, 1),
    FieldStage("frequency_penalty", words.FrequencyPenalty, 0),
    FieldStage("presence_penalty", words.PresencePenalty, 0),
)
# In transformers' order.
AFTER = (
    FieldStage("temperature", words.Temperature, 1),
    FieldStage("top_k", words.TopK, None),
    FieldStage("top_p", words.TopP, 1),
    FieldStage("min_p", words.MinP, 0),
)
NO_FIELDS = (False, False)
PARAMETERS = frozenset(each.parameter for each in (*BEFORE, *AFTER))


class Group(NamedTuple):
    """Which stages of a request a plan has: those before the formula's own, those after them."""

    before: bool = False
    after: bool = False


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
