"""Drafts of a bound plan: cheaper plans over the same lanes, whose tokens it verifies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from ...errors import ArgumentError
from ...formula import Linear, Names, Plan, Read, Scalar, Term, make_plan
from ...formula.algebra.drafting import AUTO, PROMPT, why_no_draft
from ...formula.nodes import of_states
from ...formula.scalar import Constant
from ...formula.words.stages import Lookahead, Rerank, Search
from ...grammar import Span
from ...models import ModelError, ModelSpec
from ...models.text.vocabulary import common_vocabulary
from .bind import Binder, unused_note
from .bound import Bound, with_fields
from .checks import CheckedModels
from .thinking import check_thinking
from .weight_pool import WeightPool


@dataclass
class DraftBinder:
    """Binds drafts of formulas over declared models, by what these were declared with.

    Attributes:
        specs: every declared model; those that only drafts have are loaded when one first does.
        names: that a formula may use.
        dtype, device: of models that name none.
        pool: the weights in memory.
    """

    specs: Mapping[str, ModelSpec]
    names: Names
    dtype: str | None
    device: str
    pool: WeightPool = field(default_factory=WeightPool)
    skeleton: bool = False

    def with_draft(self, bound: Bound, draft: str) -> Bound:
        """The same plan, with a draft over its lanes and over those that it needs besides.

        Raises:
            FormulaError: the draft is no formula, or none that can draft for this plan.
            ModelError: a checkpoint that cannot be read.
        """
        plan = make_plan(draft, self.names)
        if (why := why_no_draft(plan)) is not None:
            raise why
        checked = CheckedModels(plan, self.specs, self.dtype, self.device, self.pool)
        models = {term.model for term in plan.terms}
        try:
            common_vocabulary([*bound.described, *(checked.descriptions[each] for each in models)])
        except ModelError as error:
            raise checked.at(error) from None
        checked.size = min(checked.size, bound.vocabulary)
        own = Binder(checked, self.skeleton, None, self.pool, bound).bind()
        own = with_fields(own, bound.fields)  # the more alike, the more is accepted
        used = {unused_note(name) for name in models}
        drafted = replace(
            bound, lanes=own.lanes, lane_names=own.lane_names, lane_keys=own.lane_keys,
            notes=tuple(note for note in bound.notes if note not in used),
            draft_plans=(replace(own, vocabulary=bound.vocabulary),),
        )  # fmt: skip
        check_thinking(drafted)
        return drafted


def drafting(bound: Bound, source: str, binder: DraftBinder | None) -> Bound:
    """A plan with the drafts that a source asks for.

    Raises:
        ArgumentError: the plan can have none.
        FormulaError, ModelError: as ``DraftBinder.with_draft``.
    """
    refuse_draft(bound)
    if source == PROMPT:
        return bound
    if source == AUTO:
        return with_own_terms(bound)
    if binder is None:
        raise ArgumentError(f"{source} cannot draft here: no models are declared")
    return binder.with_draft(bound, source)


def with_own_terms(bound: Bound) -> Bound:
    """The same plan, each of whose terms may draft for it, alone and with the formula's stages."""
    chosen = (Rerank, Search)
    stages = tuple(
        stage
        for stage in bound.plan.stages
        if not isinstance(stage, chosen) and not any(of_states(stage))
    )
    plans = tuple(
        replace(bound, plan=_alone(term.term, stages), terms=(term,), rewards={}, draft_plans=())
        for term in bound.terms
        if term.token_map is None
    )
    return replace(bound, draft_plans=plans)


def refuse_draft(bound: Bound) -> None:
    """Refuse drafts of a plan that cannot have any.

    Raises:
        ArgumentError: says why.
    """
    if bound.term_parallel is not None:
        problem = "draft is not for processes that share a formula's models"
        raise ArgumentError(f'{problem}; leave draft out, or parallel="terms"')
    if bound.plan.search is not None and isinstance(bound.plan.search[1], Lookahead):
        problem = "draft is not for rerank with ahead, whose rows begin anew with every token"
        raise ArgumentError(f"{problem}; leave one of them out")


def _alone(term: Term, stages: tuple[Any, ...]) -> Plan:
    one = Scalar(Constant(Fraction(1)), "a coefficient")
    text = str(term)
    return Plan(Linear(((one, Read(term)),)), stages, text, text, {term: Span(0, len(text))})
