"""Speculation: what is proposed for a batch before its next step, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

from ....formula.algebra.drafting import AUTO, PROMPT
from ...batch.cost import RunStats
from ...binding.bound import Bound
from ...engine.drafting import Proposal
from ...requests.answer import Answer
from ...requests.request import Request
from .auto import AutoDraft
from .caps import can_draft, most_drafted, readable
from .draft_length import Acceptance, AdaptiveLength, RoundCosts
from .lane_costs import draft_costs, prompt_costs, term_costs
from .prompt_lookup import PromptLookup

SEEN = 2  # of so many ordinary steps, one is asked what each candidate would have drawn


class Counted(Protocol):
    """A step, as far as it counts."""

    forwards: list[int]


class Drafting(Protocol):
    """An engine, as far as drafts go."""

    bound: Bound
    stats: RunStats

    @property
    def all_steps(self) -> Sequence[Counted]:
        """Of the plan and its draft plans."""


@dataclass
class _Row:
    """What is known of one request.

    Attributes:
        acceptance: of what was drafted for it.
        lookup: in its prompt and answer.
        can_draft: per draft plan, whether it has what the plan reads.
    """

    acceptance: Acceptance
    lookup: PromptLookup
    can_draft: Sequence[bool]


@dataclass
class _Pending:
    """The step that is under way.

    Attributes:
        began: when it was proposed.
        name: of the draft; None for an ordinary step.
        counts: tokens that are drafted, per slot.
        looked_up: per slot, the token that prompt lookup would have proposed, where one is asked.
        observes: whether it is asked what each candidate would have drawn.
        is_first: whether an answer has no token yet: reading the prompts gave its scores.
    """

    began: float
    rows: Sequence[_Row]
    name: str | None = None
    counts: Sequence[int] = ()
    looked_up: Sequence[Sequence[int]] = ()
    observes: bool = False
    is_first: bool = False


class Speculation:
    """Proposes tokens for the answers of a batch.

    Args:
        engine: of the batch.
    """

    def __init__(self, engine: Drafting) -> None:
        self._engine, self._bound = engine, engine.bound
        self._rows: dict[int, _Row] = {}  # by the requests' ids
        self._adaptive, self._costs = AdaptiveLength(), dict[tuple[str, int], RoundCosts]()
        self._before = self._forwards()
        self._pending: _Pending | None = None
        self._ordinary = 0

    def proposal(self, answers: Sequence[Answer], rooms: Sequence[int]) -> Proposal | None:
        """Tokens to verify in the next step; None for an ordinary step.

        Args:
            answers: per slot.
            rooms: tokens that each may take now, at most.
        """
        self._pending = None  # a step that failed leaves one
        sources = [each.request.draft.source for each in answers if each.request.draft]
        if not sources:
            return None
        known, requests = self._rows, [answer.request for answer in answers]
        self._rows = {id(each): known.get(id(each)) or self._row(each) for each in requests}
        rows = [self._rows[id(each)] for each in requests]
        self._pending = _Pending(time.perf_counter(), rows)
        proposal = self._proposal(sources[0], answers, rooms)
        if proposal is None and self._bound.plan.search is not None:
            proposal = _nothing(len(answers))  # of which rows may stand still
        return proposal

    def withdrawn(self, answers: Sequence[Answer]) -> Proposal | None:
        """What is left of a proposal for which there is no room: an ordinary step.

        The answers, one per slot, may be fewer than before.
        """
        if self._pending is None:
            return None
        rows = [self._rows[id(answer.request)] for answer in answers]
        self._pending = _Pending(time.perf_counter(), rows, is_first=True)  # its time is no measure
        return None if self._bound.plan.search is None else _nothing(len(answers))

    def record(self, tokens: Sequence[Sequence[int]], observed: Sequence[Sequence[int]]) -> None:
        """Note what the last step has drawn.

        Args:
            tokens: drawn, per slot.
            observed: per draft plan, what it would have drawn in each slot, where that was asked.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        seconds, stats = time.perf_counter() - pending.began, self._engine.stats
        drafted = pending.counts or [0] * len(tokens)
        outcome = [
            (count, max(0, min(count, len(each) - 1)))
            for count, each in zip(drafted, tokens, strict=True)
        ]
        if pending.name is not None:
            stats.add_round(sum(drafted), sum(accepted for _, accepted in outcome))
        counts = zip(self._bound.lane_names, self._forwards(), self._before, strict=True)
        stats.forwards = {name: now - before for name, now, before in counts}
        for row, (count, accepted) in zip(pending.rows, outcome, strict=True):
            if count:
                row.acceptance.observe(count, accepted)
        if (auto := _AUTO.get(self._engine)) is None:
            return
        if pending.name is not None:
            auto.observe_round(pending.name, max(drafted), seconds, outcome)
            return
        agreements = self._agreements(pending, [each[:1] for each in tokens], observed)
        other = pending.observes or pending.is_first
        auto.observe_step(None if other else seconds, len(tokens), agreements)

    def _proposal(
        self, source: str, answers: Sequence[Answer], rooms: Sequence[int]
    ) -> Proposal | None:
        if source != AUTO:
            return self._drafted(source, answers, rooms)
        auto, pending = self._auto(), self._pending
        assert pending is not None
        pending.is_first = not all(answer.tokens for answer in answers)
        pending.looked_up = [
            readable(self._bound, row.lookup.propose(answer.tokens, 1))
            for row, answer in zip(pending.rows, answers, strict=True)
        ]
        most = max(self._most(None, answers, rooms))
        without = [] if any(pending.looked_up) else [PROMPT]
        name, length = auto.choose(len(answers), most, without)
        if name is not None:
            return self._drafted(name, answers, rooms, length)
        self._ordinary += 1
        if auto.knows_enough or self._ordinary % SEEN or not self._bound.draft_plans:
            return None
        pending.observes = True
        return _nothing(len(answers))._replace(observes=True)

    def _drafted(
        self, name: str, answers: Sequence[Answer], rooms: Sequence[int], length: int | None = None
    ) -> Proposal | None:
        """Drafts of one kind, each as long as pays: ``length`` says so, or its acceptance."""
        assert self._pending is not None
        plan = None if name == PROMPT else self._plan(name)
        counts, rows = self._most(plan, answers, rooms), self._pending.rows
        if length is not None:
            counts = [min(length, most) for most in counts]
        elif any(each.request.draft and each.request.draft.length is None for each in answers):
            counts = self._adapted(name, plan, answers, counts)
        tokens = None
        if plan is None:
            tokens = [
                readable(self._bound, row.lookup.propose(answer.tokens, most)) if most else []
                for row, answer, most in zip(rows, answers, counts, strict=True)
            ]
            counts = [len(each) for each in tokens]
        if not any(counts):
            return None
        self._pending.name, self._pending.counts = name, counts
        return Proposal(counts, tokens, plan or 0)

    def _adapted(
        self, name: str, plan: int | None, answers: Sequence[Answer], most: Sequence[int]
    ) -> list[int]:
        """Lengths of drafts: those that were asked for, and of other requests what pays."""
        key, bound = (name, len(answers)), self._bound
        if key not in self._costs:
            options = len(answers), True
            self._costs[key] = (
                prompt_costs(bound, *options)
                if plan is None
                else draft_costs(bound, bound.draft_plans[plan], *options)
            )
        assert self._pending is not None
        acceptances = [row.acceptance for row in self._pending.rows]
        adapted = self._adaptive.lengths(acceptances, most, self._costs[key])
        return [
            count if answer.request.draft and answer.request.draft.length else own
            for count, own, answer in zip(most, adapted, answers, strict=True)
        ]

    def _most(self, plan: int | None, answers: Sequence[Answer], rooms: Sequence[int]) -> list[int]:
        """Tokens that may be drafted per slot, at most."""
        assert self._pending is not None
        return [
            most_drafted(self._bound, plan, answer, room)
            if plan is None or row.can_draft[plan]
            else 0
            for answer, room, row in zip(answers, rooms, self._pending.rows, strict=True)
        ]

    def _agreements(
        self,
        pending: _Pending,
        tokens: Sequence[Sequence[int]],
        observed: Sequence[Sequence[int]],
    ) -> dict[str, tuple[int, int]]:
        """Of each candidate, the slots where it would have proposed what was drawn, and any."""
        pairs = [
            (own, looked_up[:1])
            for own, looked_up in zip(tokens, pending.looked_up, strict=bool(pending.looked_up))
            if own and looked_up
        ]
        agreements = {PROMPT: (sum(own == other for own, other in pairs), len(pairs))}
        for name, plan in self._candidates().items():
            if plan is not None and observed:
                rows = [
                    (own, [other])
                    for own, other, row in zip(tokens, observed[plan], pending.rows, strict=True)
                    if own and row.can_draft[plan]
                ]
                agreements[name] = sum(own == other for own, other in rows), len(rows)
        return agreements

    def _auto(self) -> AutoDraft:
        """What chooses a draft; it remembers what it has measured, as long as the engine is."""
        if self._engine not in _AUTO:
            costs = {str(term.term): each for term, each in term_costs(self._bound, True)}
            costs = {name: costs[name] for name in self._candidates() if name in costs}
            _AUTO[self._engine] = AutoDraft({**costs, PROMPT: prompt_costs(self._bound, 1, True)})
        return _AUTO[self._engine]

    def _candidates(self) -> dict[str, int | None]:
        """What may draft by choice, and the draft plan of each."""
        names = {str(term.term) for term, _ in term_costs(self._bound)}
        plans = (draft.plan.formula for draft in self._bound.draft_plans)
        own: dict[str, int | None] = {name: i for i, name in enumerate(plans) if name in names}
        return {**own, PROMPT: None}

    def _plan(self, name: str) -> int:
        """The draft plan of a candidate; the only one where a formula drafts."""
        plans = [draft.plan.formula for draft in self._bound.draft_plans]
        return plans.index(name) if name in plans else 0

    def _row(self, request: Request) -> _Row:
        bound, number = self._bound, self._bound.text_term
        lookup = PromptLookup(bound.terms[number].formula_ids(request.prompts[number]))
        plans = range(len(bound.draft_plans))
        return _Row(Acceptance(), lookup, [can_draft(bound, plan, request) for plan in plans])

    def _forwards(self) -> list[int]:
        """Of each lane, by all steps so far."""
        return [
            sum(lane) for lane in zip(*(s.forwards for s in self._engine.all_steps), strict=True)
        ]


def _nothing(slots: int) -> Proposal:
    """One position per slot, as in an ordinary step; the host says what it goes on with."""
    return Proposal([0] * slots, [()] * slots)


_AUTO: WeakKeyDictionary[Drafting, AutoDraft] = WeakKeyDictionary()
