"""A plan with its lanes: the binder makes it, and everything after it works on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from ...formula import Plan, Read, Scalar, Stage, Term
from ...formula.algebra.liveness import always_of
from ...formula.nodes import StageAddress
from ...formula.request_fields import AFTER, BEFORE, NO_FIELDS, REPEATS, Group, stages_of
from ...formula.words.stages import Particles, RequestBias
from ...models.checkpoint.description import Description
from ...models.heads.layer_heads import HeadColumns
from ...models.images.sources import FILES, Sources
from ...models.text.detokenizer import Detokenizer
from ...models.text.encoding.prompt_encoder import PromptEncoders
from ...models.text.thoughts import Thoughts, marks_of
from ..scores.sampling.breakers import Breakers
from ..scores.token_tables import ENDS, TokenTable, tables_of
from .bound_term import BoundTerm
from .term_parallel import TermParallel


@dataclass(frozen=True)
class Bound:
    """A plan with its lanes.

    Attributes:
        terms: one per term of ``plan.terms``, in that order.
        rewards: for each stage with a reward expression, one per model of the expression.
        lanes: of all terms.
        lane_names: for each lane, the names of its models, for the report.
        vocabulary: tokens that every model shares.
        device: of the models that name none.
        tokenizer: of the formula's tokens, or None.
        eos: ids that end a text unless the request gives its own.
        positions: the longest text that every model can read, or None.
        notes: a line for each thing that was dropped, cut or left alone.
        term_parallel: the processes that share the lanes; None for one process.
        lane_keys: for each lane, what tells it from others.
        heads: for each head of a term, where what it gives is behind the logits of its lane.
        described: the models whose tokens are the formula's.
        constraints: what its answers are to fit (``PlanConstraints``).
        fields: which stages of a request it has besides the formula's own
            (``request_fields.Group``); ``without_fields``, the plan without those.
        draft_plans: others over the same lanes, which may propose tokens of this one.
        sources: where images of prompts may come from.
    """

    plan: Plan
    terms: tuple[BoundTerm, ...]
    rewards: Mapping[StageAddress, tuple[BoundTerm, ...]]
    lanes: tuple[Any, ...]
    lane_names: tuple[str, ...]
    vocabulary: int
    device: str
    tokenizer: Any
    eos: frozenset[int]
    positions: int | None
    notes: tuple[str, ...] = field(default=())
    term_parallel: TermParallel | None = None
    lane_keys: tuple[tuple[Any, ...], ...] = ()
    heads: Mapping[Read, HeadColumns] = field(default_factory=dict)
    described: tuple[Description, ...] = ()
    constraints: Any = None
    fields: Group = NO_FIELDS
    without_fields: Plan | None = None
    draft_plans: tuple[Bound, ...] = ()
    sources: Sources = FILES

    @property
    def own_plan(self) -> Plan:
        """Of the formula, without the stages of a request."""
        return self.without_fields or self.plan

    @property
    def own_terms(self) -> tuple[BoundTerm, ...]:
        """The terms of the scores, then those of every stage."""
        return (*self.terms, *(term for terms in self.rewards.values() for term in terms))

    @property
    def all_terms(self) -> tuple[BoundTerm, ...]:
        """The plan's own terms, then those that only drafts have."""
        return (*self.own_terms, *self.draft_terms)

    @property
    def encoders(self) -> PromptEncoders:
        """How all terms read prompts."""
        apart = (each.is_function or each.processor is not None for each in self.all_terms)
        pairs = zip(self.all_terms, apart, strict=True)
        return PromptEncoders([None if here else term.encoder for term, here in pairs])

    @cached_property
    def draft_terms(self) -> tuple[BoundTerm, ...]:
        """The terms that only drafts have."""
        own = {term.term for term in self.terms}
        others = {term.term: term for draft in self.draft_plans for term in draft.terms}
        return tuple(bound_term for term, bound_term in others.items() if term not in own)

    @cached_property
    def scalars(self) -> tuple[Scalar, ...]:
        """The numbers of the plan, and then those of each draft."""
        others = (scalar for draft in self.draft_plans for scalar in draft.plan.scalars)
        return (*self.plan.scalars, *others)

    @cached_property
    def first_scalars(self) -> list[int]:
        """Per draft plan, the column of its first number among those of a request."""
        counts = [len(each.plan.scalars) for each in (self, *self.draft_plans)]
        return [*accumulate(counts)][:-1]

    @cached_property
    def columns(self) -> dict[Scalar, int]:
        """The column of each number, of the plan and its drafts, among those of a request."""
        columns: dict[Scalar, int] = {}
        for column, scalar in enumerate(self.scalars):
            columns.setdefault(scalar, column)
        return columns

    @cached_property
    def tables(self) -> tuple[TokenTable, ...]:
        """What stages of the plan and its drafts look at of each text, by token."""
        plans = (self.plan, *(draft.plan for draft in self.draft_plans))
        return tables_of(stage for plan in plans for _, stage in plan.all_stages)

    @cached_property
    def breakers(self) -> Breakers:
        """The tokens that end a match of ``dry``."""
        return Breakers(self.tokenizer, self.vocabulary)

    @property
    def looks_at_ends(self) -> bool:
        """Whether some stage needs to know which tokens end a row."""
        return ENDS in self.tables or bool(self.constraints.stages)

    @property
    def mapped(self) -> list[Term]:
        """The terms of the scores whose models have another vocabulary."""
        return [each.term for each in self.terms if each.token_map is not None]

    @cached_property
    def detokenizer(self) -> Detokenizer | None:
        """What decodes answers; None without a tokenizer."""
        return None if self.tokenizer is None else Detokenizer(self.tokenizer)

    @cached_property
    def text_term(self) -> int:
        """The term whose prompt an answer's text continues, by its number in ``terms``.

        It is the first in the formula that reads the prompt in the formula's own tokens.
        """
        spans = self.plan.spans
        numbers = sorted(range(len(self.terms)), key=lambda i: spans[self.terms[i].term])
        return min(
            numbers,
            key=lambda i: (
                self.terms[i].token_map is not None,
                self.terms[i].tokenizer is None,
                self.terms[i].term.alone,
            ),
        )

    @property
    def thinks(self) -> bool:
        """Whether a number of the plan, or of a draft, depends on ``thinking``."""
        plans = (self.plan, *(draft.plan for draft in self.draft_plans))
        numbers = (number for plan in plans for number in plan.scalars)
        return any(state.name == "thinking" for number in numbers for state in number.states)

    @cached_property
    def thinking_term(self) -> int:
        """The term whose marks and whose prompt say where thoughts are: the first that has marks.

        By its number among ``terms`` and then ``draft_terms``; -1 where none has marks.
        """
        terms, spans = (*self.terms, *self.draft_terms), self.plan.spans
        order = [
            (term.term.alone, number >= len(self.terms), spans.get(term.term), number)
            for number, term in enumerate(terms)
            if term.token_map is None and marks_of(term.spec, term.tokenizer) is not None
        ]
        return min(order, key=lambda each: (each[:2], each[2] or (), each[3]))[3] if order else -1

    @cached_property
    def thoughts(self) -> Thoughts | None:
        """The marks of thought over the formula's tokens; None where no term has any."""
        if self.thinking_term < 0:
            return None
        term = (*self.terms, *self.draft_terms)[self.thinking_term]
        marks = marks_of(term.spec, term.tokenizer)
        assert marks is not None
        return Thoughts(marks, term.tokenizer, self.vocabulary)

    @property
    def raw_text_models(self) -> tuple[str, ...]:
        """The models whose tokenizers have a chat template that a text prompt goes past."""
        terms = sorted(self.own_terms, key=lambda bound_term: self.plan.spans[bound_term.term])
        return tuple(dict.fromkeys(term.term.model for term in terms if term.reads_raw_text))

    def forget_changing(self) -> None:
        """Find nothing again of models whose weights somebody may have changed."""
        for lane in self.lanes:
            if lane.weights_may_change:
                lane.forget_prefixes()

    @property
    def search_lanes(self) -> set[int]:
        """The lanes of a search's rewards alone: fed every token, and read now and then."""
        address, _ = self.plan.search or (None, None)
        others = {term.lane for term in self.all_terms if term.language or term.address != address}
        return {term.lane for term in self.all_terms} - others

    @property
    def draft_lanes(self) -> set[int]:
        """The lanes that only drafts run."""
        return {term.lane for term in self.draft_terms} - {term.lane for term in self.own_terms}

    @cached_property
    def search_language(self) -> tuple[int, ...]:
        """The language models that a search judges texts by, by their numbers in its reward."""
        terms = self.rewards[self.plan.search[0]] if self.plan.search else ()
        return tuple(number for number, term in enumerate(terms) if term.language)

    @property
    def weighs_masks(self) -> bool:
        """Whether a search's weights count the probability that constraints leave."""
        return self.plan.search is not None and isinstance(self.plan.search[1], Particles)

    @property
    def search_columns(self) -> int:
        """Numbers that steps add up for each text of a search: see ``Step.search_scores``."""
        return len(self.search_language) + self.weighs_masks

    @property
    def conditional(self) -> list[BoundTerm]:
        """The terms whose lanes some steps do not run, by a condition of the formula."""
        certain = always_of(self.plan)
        read = {node.term for node in certain if isinstance(node, Read)}
        lanes = {term.lane for term in self.terms if term.term in read}
        terms = [term for term in self.terms if term.lane not in lanes]
        for address, _ in self.plan.reranks:
            if address[0] is not None and address[0] not in certain:
                terms += self.rewards[address]
        return terms


def reward_stages(plan: Plan) -> list[tuple[StageAddress, Stage, Scalar]]:
    """Every stage with a reward expression, and that: those that rerank, then the search."""
    search = [(*plan.search, plan.search[1].r)] if plan.search else []
    return [*((address, stage, stage.reward) for address, stage in plan.reranks), *search]


def with_fields(bound: Bound, fields: Sequence[bool]) -> Bound:
    """The same formula over the same lanes, with stages of a request around its own (``Group``)."""
    group = Group(*fields)
    if not any(group):
        return bound
    plan, own = bound.plan, bound.plan.stages
    search = own[-1:] if plan.search else ()
    before, after = _of_group(group)
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


def _of_group(group: Group) -> tuple[list[Stage], list[Stage]]:
    """The stages of a request before the formula's own, and those after them."""
    before: list[Stage] = [RequestBias(), *stages_of(BEFORE)] if group.before else []
    return before + stages_of(REPEATS) * group.repeats, stages_of(AFTER) * group.after


def stages_by_owner(bound: Bound) -> tuple[tuple[Stage, ...], tuple[Stage, ...], tuple[Stage, ...]]:
    """A plan's stages: of the request, of the formula, and of the request again.

    What searches comes last whoever's it is.
    """
    stages = bound.plan.stages
    before, after = map(len, _of_group(bound.fields))
    end = len(stages) - after - (bound.plan.search is not None) if after else len(stages)
    return stages[:before], stages[before:end], stages[end:]
