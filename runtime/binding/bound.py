"""A plan with its lanes: the binder makes it, and everything after it works on it."""

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
        """The terms of the scores, then those of every stage."""
        return (*self.terms, *(term for terms in self.rewards.values() for term in terms))

    @property
    def search_lanes(self) -> set[int]:
        """The lanes of a search's rewards alone: fed every token, and read now and then."""
        if self.plan.search is None:
            return set()
        lanes: dict[bool, set[int]] = {True: set(), False: set()}
        for term in self.all_terms:
            lanes[term.address == self.plan.search[0] and not term.language].add(term.lane)
        return lanes[True] - lanes[False]

    @property
    def conditional(self) -> list[BoundTerm]:
        """The terms whose lanes some steps do not run, by a condition of the formula."""
        certain = always(self.plan.scores)
        lanes = {term.lane for term in self.terms if Read(term.term) in certain}
        terms = [term for term in self.terms if term.lane not in lanes]
        for address, _ in self.plan.reranks:
            if address[0] is not None and address[0] not in certain:
                terms += self.rewards[address]
        return terms
