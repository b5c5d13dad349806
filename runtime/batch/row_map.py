"""Seats: which row of its lane each slot holds, one seat per reader of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ...formula import Plan, Term
from ...formula.algebra.liveness import needed
from ..binding.bound import Bound
from ..binding.bound_term import BoundTerm
from ..requests.request import Reading, Request


class RowMap:
    """One reader's rows: which row of its lane each slot holds.

    Attributes:
        rows: ``(slots,)`` int64; a slot without a row points at row 0, with the weight 0.
        present: ``(slots,)`` bool, whether the slot has a row.
        live: whether any slot has a row.
        whole: whether slot i holds row i of a lane that has no others, so that nothing is gathered.
    """

    def __init__(
        self, bound_term: BoundTerm, number: int, needs: Callable[[Request], bool]
    ) -> None:
        self.term, self.number, self.needs = bound_term, number, needs
        self.held: list[int | None] = []
        self.rows = self.present = self._rows = self._present = torch.empty(0)
        self.live = self.whole = False

    def reserve(self, slots: int, device: torch.device) -> None:
        """Make room for so many slots; a step that is recorded looks here again."""
        self._rows = torch.zeros(slots, dtype=torch.long, device=device)
        self._present = torch.zeros(slots, dtype=torch.bool, device=device)

    def settle(self, lane_rows: int) -> None:
        """Make the tensors after the slots have changed."""
        self.live = any(row is not None for row in self.held)
        self.whole = self.held == list(range(lane_rows))
        self.rows = filled(self._rows, [row or 0 for row in self.held])
        self.present = filled(self._present, [row is not None for row in self.held])

    def reads(self, request: Request) -> Reading:
        """What the reader reads for a request."""
        place = self.term.address
        return (request.prompts if place is None else request.rewards[place])[self.number]


def row_maps_of(bound: Bound) -> list[RowMap]:
    """A seat per term, in the plan's order, then one per reward model of each stage."""
    plan, columns = bound.plan, bound.plan.columns
    row_maps = []
    for i, bound_term in enumerate(bound.terms):
        row_maps.append(RowMap(bound_term, i, partial(_is_needed, plan, bound_term.term)))
    for place, stage in plan.reranks:
        parts = zip(stage.reward.parts, bound.rewards[place], strict=True)
        for i, ((coefficient, _), bound_term) in enumerate(parts):
            both = (columns[coefficient], columns[stage.w])
            row_maps.append(RowMap(bound_term, i, partial(_is_weighed, both)))
    if plan.search is not None:
        place, search = plan.search
        for i, ((coefficient, _), bound_term) in enumerate(
            zip(search.r.parts, bound.rewards[place], strict=True)
        ):
            row_maps.append(RowMap(bound_term, i, partial(_is_weighed, (columns[coefficient],))))
    return row_maps


def _is_needed(plan: Plan, term: Term, request: Request) -> bool:
    return term in needed(plan, plan.scores, request.values)


def _is_weighed(columns: Sequence[int], request: Request) -> bool:
    return all(request.values[column] != 0 for column in columns)


def filled(buffer: Tensor, values: Sequence[int]) -> Tensor:
    """The beginning of a buffer, with these values in it."""
    return buffer[: len(values)].copy_(torch.tensor(values, dtype=buffer.dtype))
