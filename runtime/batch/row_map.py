"""Row maps: which row of its lane each slot has, one map per bound term of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...formula import Plan, Read
from ...models.combinations import BARE, Combination
from ...models.images.prompt import images_of
from ..binding.bound_term import BoundTerm
from ..requests.request import Reading, Request, length_of


class RowMap:
    """One bound term's rows: which row of its lane each slot has.

    Attributes:
        held: per slot in use, its row, or None.
        number: of the term among those of the scores, or of its stage.
        needs: whether a request needs the term at all.
        only_draft: whether only drafts have the term; ``number`` is among those.
        source: names the term where its model gives NaN.
        rows: ``(slots,)`` int64; a slot without a row points at row 0, with the weight 0.
        present: ``(slots,)`` bool, whether the slot has a row.
        live: whether any slot has a row.
        is_identity: whether slot i has row i of a lane that has no others, so that nothing is
            gathered.
    """

    def __init__(
        self,
        term: BoundTerm,
        number: int,
        needs: Callable[[Request], bool],
        only_draft: bool = False,
    ) -> None:
        self.term, self.number, self.needs, self.only_draft = term, number, needs, only_draft
        self.source: tuple[str, object] = ("stage", term.address)
        if term.language:
            self.source = ("term" if term.address is None else "search", number)
        if only_draft:
            self.source = ("draft", number)
        self.held: list[int | None] = []
        self.rows = self.present = torch.empty(0)
        self.live = self.is_identity = False

    def reserve(self, rows: Tensor, present: Tensor) -> None:
        """Have room for all slots; a step that is recorded reads from here again."""
        self._all = rows, present

    def settle(self, lane_rows: int, lane_width: int, width: int) -> None:
        """Work out what follows of the slots: ``width`` of them, with idle ones."""
        self.live = any(row is not None for row in self.held)
        self.is_identity = width == lane_width and self.held == list(range(lane_rows))
        self.rows, self.present = (tensor[:width] for tensor in self._all)

    def prompt(self, request: Request) -> Reading:
        """What the term reads of a request before the answer."""
        address = self.term.address
        if self.only_draft:
            return request.draft_prompts[self.number]
        return (request.prompts if address is None else request.rewards[address])[self.number]

    def combination(self, bound: Any, request: Request) -> Combination:
        """What the term's row adds to its lane's weights."""
        prompt = self.prompt(request)
        images = images_of(prompt)
        if not self.term.additions and images is None:
            return BARE
        weights = [
            (loaded, 1.0 if number is None else request.values[bound.columns[number]])
            for number, loaded in self.term.additions
        ]
        start = length_of(prompt)
        lane = bound.lanes[self.term.lane]
        combination: Combination = lane.adapters.combination(weights, start, images)
        return combination

    def text(self, request: Request, answer: Sequence[int]) -> Reading:
        """What the term has read of a request and its answer; of text, what comes before that."""
        prompt = self.prompt(request)
        if not answer or not isinstance(prompt, Sequence) or isinstance(prompt, str):
            return prompt
        return [*prompt, *self.term.term_ids(answer)]


def reads_of(plan: Plan, row_maps: Sequence[RowMap]) -> Iterator[tuple[Read, RowMap]]:
    """What a plan reads, and the map of the rows that it reads; a term's heads read its row."""
    of_term = {each.term.term: each for each in row_maps if each.term.address is None}
    for read in plan.all_reads:
        yield read, of_term[read.term]


def ahead(plan: Plan, request: Request) -> int:
    """Cache positions that a step of a request takes behind its text, at most."""
    candidates = widest(plan, request) + plan.tokens_ahead(request.values)
    if request.draft is None:
        return max(candidates, int(plan.search is not None))  # of a row that has ended, a draw more
    longest = request.draft.longest
    return 1 + longest + (1 + longest) * candidates


def widest(plan: Plan, request: Request) -> int:
    """Cache positions that the candidates of a request take, at most."""
    columns = [plan.columns[stage.k] for _, stage in plan.reranks]
    return max((int(request.values[column]) + 1 for column in columns), default=0)
