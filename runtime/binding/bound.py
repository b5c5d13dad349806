"""A plan with its lanes: what the binder makes, and everything after it works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...formula import Plan, Read
from ...formula.algebra.liveness import always
from ...formula.nodes import StageAddress
from .bound_term import BoundTerm
from .term_parallel import TermParallel


@dataclass(frozen=True)
class Bound:
    """A plan with its lanes.

    Attributes:
        readers: one per term of ``plan.terms``, in that order.
        rewards: per stage that reranks, one per reward model of its expression.
        lanes: each with its models' names, for the report.
        vocabulary: tokens that every model shares.
        device: of the models that name none.
        eos: ids that end a text unless the request says otherwise.
        positions: the longest text that every model can read, or None.
        ranks: the processes that decode together, where lanes are shared out among them.
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

    @property
    def all_terms(self) -> tuple[BoundTerm, ...]:
        """All readers, of the scores and of every stage."""
        return (*self.terms, *(one for some in self.rewards.values() for one in some))

    @property
    def search_lanes(self) -> set[int]:
        """The lanes of a search's rewards alone: fed every token, and read now and then."""
        if self.plan.search is None:
            return set()
        lanes: dict[bool, set[int]] = {True: set(), False: set()}
        for one in self.all_terms:
            lanes[one.place == self.plan.search[0] and not one.language].add(one.lane)
        return lanes[True] - lanes[False]

    @property
    def conditional(self) -> list[BoundTerm]:
        """The readers whose lanes some steps go without, by a condition of the formula."""
        certain = always(self.plan.scores)
        lanes = {bound_term.lane for bound_term in self.terms if Read(bound_term.term) in certain}
        found = [bound_term for bound_term in self.terms if bound_term.lane not in lanes]
        for place, _ in self.plan.reranks:
            if place[0] is not None and place[0] not in certain:
                found += self.rewards[place]
        return found
