"""The batch: requests in slots, and which rows of which lanes each of them has.

Slots 0 to ``count`` are in use. Steps that are recorded work on a bucket of slots, where idle ones
follow: what they compute is never looked at. All bookkeeping happens when a request joins or
leaves; a step only reads what is left behind here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...formula import Plan, Term
from ...formula.algebra.liveness import needed
from ...formula.words.stages import Rerank
from ...models.lanes.prefill import CHUNK
from ...models.recordings import bucket
from ..binding.bound import Bound, reward_stages
from ..requests.request import PROCESSED, Request
from ..scores.context import ScalarColumn, numbers_of
from ..scores.logprobs import columns
from .row_map import RowMap, filled


class Batch:
    """The slots of one run.

    Attributes:
        requests: per slot in use, and ``count``, how many.
        arriving: prompts that are being read, whose requests have no slots yet; or None.
        values: ``(slots, scalars)`` float32, the plan's numbers.
        numbers: the same for the slots in use, with what the host knows of each.
        temperatures: ``(slots,)`` float32.
        keys: ``(slots, 2)`` int32, and ``steps``, ``(slots,)`` int64: each row's noise.
        search_score: ``(slots,)`` float32, each text's sum of scores by the models of a search.
        unsure: per slot, whether the last step's scores were unsure; known on the host.
        logprobs: whether steps give the drawn tokens' log-probabilities; ``top_logprobs``, of how
            many of the best; ``logprobs_drawn``, per slot, those of the last one.
        processed: ``(slots,)`` bool, whose are of what is drawn from; ``any_processed``, whether
            any in use.
        seen: ``(slots, V)`` bool where a stage needs it.
        owners: per lane, ``(rows,)`` the slot of each row; ``owned``, on the host, the number of
            its row map and its slot.
        prepared: what a step keeps between two changes of the slots.
        bucketed: whether there are idle slots, and ``width``, how many slots with them.
        token_columns: per lane of another vocabulary, where the formula's tokens are in it.
        unread: ``(slots, V)`` bool, the tokens that some model of a row cannot read, or that one
            of a search has no counterpart of; None where no row has such a model.
    """

    def __init__(self, bound: Bound, slots: int, capacity: int, track_seen: bool) -> None:
        self.bound, self.capacity, self.count = bound, capacity, 0
        self.slots = self.most = slots
        self.bucketed = False
        self.device = bound.lanes[bound.terms[0].lane].device
        zeros = partial(torch.zeros, device=self.device)
        self.values = zeros(slots, len(bound.plan.scalars))
        self.temperatures, self.search_score = zeros(slots), zeros(slots)
        self.keys = zeros(slots, 2, dtype=torch.int32)
        self.steps = zeros(slots, dtype=torch.long)
        self.row_maps = _row_maps(bound)
        self.token_columns = {
            row_map.term.lane: columns(token_map, self.device)
            for row_map in self.row_maps
            if (token_map := row_map.term.token_map) is not None
        }
        bits = partial(zeros, slots, bound.vocabulary, dtype=torch.bool)
        self.seen: Tensor | None = bits() if track_seen else None
        self.unread: Tensor | None = None
        self._unread: Tensor | None = bits() if self.token_columns else None
        self.processed = zeros(slots, dtype=torch.bool)
        self.samples = self.logprobs = self.any_processed = False
        self.top_logprobs = 0
        self.logprobs_drawn: list[Any] = []
        self.unsure: list[int] = []
        self.requests: list[Request] = []
        self.owners: list[Tensor] = [torch.empty(0) for _ in bound.lanes]
        self._owners: list[Tensor] = []
        self.owned: list[list[tuple[int, int]]] = [[] for _ in bound.lanes]
        self.numbers: list[ScalarColumn] = []
        self.prepared: Any = None
        self.arriving: Generator[int] | None = None
        self.promised = 0  # slots of the requests that arrive
        self._pending = 0  # tokens of the forward that arriving prompts wait for
        self._reserve()

    @property
    def width(self) -> int:
        """Slots of a step: those in use, and the idle ones of their bucket."""
        return bucket(self.count, self.most) if self.bucketed else self.count

    def restart(self, slots: int, bucketed: bool) -> None:
        """Begin again over the same memory, with so many slots at most, all of them empty."""
        self.slots, self.bucketed, self.count = slots, bucketed, 0
        self.requests, self.owned = [], [[] for _ in self.bound.lanes]
        self.arriving, self.promised, self._pending = None, 0, 0
        self.logprobs_drawn, self.unsure, self.numbers, self.prepared = [], [], [], None
        for row_map in self.row_maps:
            row_map.held = []
        for columns_of_lane in self.token_columns.values():
            columns_of_lane.share.zero_()
        self._reserve_lanes()

    @property
    def room(self) -> int:
        """Slots that a request could be given; none while others arrive."""
        return 0 if self.arriving is not None else self.slots - self.count

    def admit(self, requests: Sequence[Request]) -> None:
        """Let requests in; they have slots when ``read`` says so. One such call at a time."""
        self.arriving, self.promised = self._read(requests), len(requests)

    def read(self, most: float | None = None) -> int:
        """Read prompts of those that arrive, who have slots once nobody is ``arriving``; how many.

        Of at most so many tokens; left out, of a chunk if slots are in use, and else of all. What
        is left of one forward is read whatever its size.
        """
        if self.arriving is None:
            return 0
        if most is None:
            most = CHUNK if self.count else math.inf
        total = self._pending
        for size in self.arriving:
            if total + size > most:
                self._pending = size
                return total
            total += size
        self.arriving, self.promised, self._pending = None, 0, 0
        return total

    def _read(self, requests: Sequence[Request]) -> Generator[int]:
        """Read prompts, saying before each forward how many tokens it reads; then join."""
        arrivals = []
        for number, lane in enumerate(self.bound.lanes):
            owners = [
                (index, position)
                for index, row_map in enumerate(self.row_maps)
                for position, request in enumerate(requests)
                if row_map.term.lane == number and row_map.needs(request)
            ]
            prompts = [self.row_maps[index].prompt(requests[i]) for index, i in owners]
            adapters = [self.row_maps[index].term.adapter for index, _ in owners]
            if prompts:
                arrivals.append((number, owners, (yield from lane.admit(prompts, adapters))))
        first = self.count
        self._join(requests)
        for number, owners, join in arrivals:
            rows = [(row, i, first + at) for row, (i, at) in zip(join(), owners, strict=True)]
            for row, index, slot in rows:
                self.row_maps[index].held[slot] = row
            self.owned[number] += [(index, slot) for _, index, slot in sorted(rows)]
        self._settle()

    def _join(self, requests: Sequence[Request]) -> None:
        """Give each request the next slot."""
        for request in requests:
            slot, self.count = self.count, self.count + 1
            self.requests.append(request)
            self.values[slot] = torch.tensor(request.values)
            self.temperatures[slot] = request.temperature
            self.processed[slot] = request.logprobs_mode == PROCESSED
            self.keys[slot] = torch.tensor(request.key, dtype=torch.int32)
            self.steps[slot], self.search_score[slot] = 0, 0
            self.see(slot, ())
        for row_map in self.row_maps:
            row_map.held += [None] * len(requests)

    def finish(self, slots: Sequence[int], *per_slot: list[Any]) -> None:
        """Free slots; the last in use take their places, also in the lists kept per slot."""
        if not slots:
            return
        for slot in sorted(slots, reverse=True):
            self._release_rows(slot)
            last = self.count - 1
            tensors = [self.values, self.temperatures, self.keys, self.steps, self.search_score]
            for tensor in (*tensors, self.processed, *filter(torch.is_tensor, [self.seen])):
                tensor[slot] = tensor[last]
            for values in (self.requests, *per_slot):
                values[slot] = values[last]
                values.pop()
            self.count = last
            for number, row_map in enumerate(self.row_maps):
                moved = row_map.held[slot] = row_map.held[last]
                row_map.held.pop()
                if moved is not None and slot != last:
                    self.owned[row_map.term.lane][moved] = (number, slot)
        self._settle()

    def close(self) -> None:
        """Give back the room in every lane; nobody may be in a slot."""
        for lane in self.bound.lanes:
            lane.reserve(0, 0)

    def read_on(self, tokens: Sequence[int]) -> None:
        """Give the lanes of other vocabularies the rest of what they read for the drawn tokens.

        A step has given them the first. A row that would leave its model's positions is over.
        """
        for number in self.token_columns:
            lane, last = self.bound.lanes[number], (self.bound.positions or sys.maxsize) - 1
            longer: dict[int, tuple[int, Sequence[int]]] = {}
            ends = lane.rows.counts()[1]
            for row, (index, slot) in enumerate(self.owned[number]):
                rest = self.row_maps[index].term.term_ids([tokens[slot]])[1:]
                if rest or ends[row] > last:
                    kept = min(ends[row], last)
                    longer[row] = (kept, rest[: last - kept])
            read = [kept + len(rest) for kept, rest in longer.values()]
            self.grow(lane, 1 + max([*ends, *read], default=0))
            if longer:
                lane.rows.rewrite(longer)

    def grow(self, lane: Any, tokens: int) -> None:
        """Make sure that a lane has room for texts of so many tokens."""
        if tokens > lane.rows.capacity:
            lane.grow(2 * tokens)

    def see(self, slot: int, answer: Sequence[int]) -> None:
        """Note which tokens a slot's prompts and its answer have in them."""
        if self.seen is None:
            return
        prompts = zip(self.bound.terms, self.requests[slot].prompts, strict=True)
        read = [*answer, *(token for term, ids in prompts for token in term.formula_ids(ids))]
        self.seen[slot] = False
        self.seen[slot, [token for token in read if token < self.bound.vocabulary]] = True

    def prompt_length(self, number: int, slot: int) -> int:
        """Tokens that a row of a row map read before the answer."""
        read = self.row_maps[number].prompt(self.requests[slot])
        return 0 if isinstance(read, str) else len(read)

    def _reserve(self) -> None:
        """Room for the slots, in every lane too."""
        for lane_rows in self._reserve_lanes():
            self._owners.append(torch.zeros(lane_rows, dtype=torch.long, device=self.device))
        for row_map in self.row_maps:
            row_map.reserve(self.most, self.device)

    def _reserve_lanes(self) -> list[int]:
        """Room in every lane, for all its terms and the candidates of its stage: rows of each."""
        reserved = []
        for number, lane in enumerate(self.bound.lanes):
            rows = self.most * sum(term.lane == number for term in self.bound.all_terms)
            more = number in self.token_columns  # where the next one goes
            lane.reserve(rows, self.capacity + more)
            lane.use_buckets(self.bucketed)
            reserved.append(rows)
        return reserved

    def _release_rows(self, slot: int) -> None:
        for row_map in self.row_maps:
            row, lane = row_map.held[slot], row_map.term.lane
            if row is None:
                continue
            last = self.bound.lanes[lane].release(row)
            owner = self.owned[lane][row] = self.owned[lane][last]
            self.owned[lane].pop()
            if last != row:
                self.row_maps[owner[0]].held[owner[1]] = row
            row_map.held[slot] = None

    def _settle(self) -> None:
        for lane, owned in enumerate(self.owned):
            slots = [slot for _, slot in owned]
            idle = self.bound.lanes[lane].rows.width - len(slots)
            self.owners[lane] = filled(self._owners[lane], slots + [0] * idle)
        for row_map in self.row_maps:
            lane = row_map.term.lane
            lane_width = self.bound.lanes[lane].rows.width
            row_map.settle(len(self.owned[lane]), lane_width, self.width)
        hidden = [
            row_map.present[:, None] & (at.absent if row_map.term.address else at.unreadable)
            for row_map in self.row_maps
            if row_map.live and (at := self.token_columns.get(row_map.term.lane))
        ]
        self.unread = None
        if hidden and self._unread is not None:
            self.unread = self._unread[: self.width].copy_(torch.stack(hidden).any(dim=0))
        values = [request.values for request in self.requests]
        self.numbers = numbers_of(self.values[: self.width], values)
        self.prepared = None
        self.samples = any(request.temperature > 0 for request in self.requests)
        asking = [request for request in self.requests if request.logprobs]
        self.logprobs = bool(asking)
        self.any_processed = any(request.logprobs_mode == PROCESSED for request in asking)
        self.top_logprobs = max((request.top_logprobs for request in asking), default=0)


def _row_maps(bound: Bound) -> list[RowMap]:
    """A row map per term, in the plan's order, then one per reward model of each stage."""
    plan, columns = bound.plan, bound.plan.columns
    row_maps = [
        RowMap(term, i, partial(_is_needed, plan, term.term)) for i, term in enumerate(bound.terms)
    ]
    for address, stage, reward in reward_stages(plan):
        weights = [columns[stage.w]] if isinstance(stage, Rerank) else []
        for i, (coefficient, _) in enumerate(reward.parts):
            needs = partial(_is_weighed, [columns[coefficient], *weights])
            row_maps.append(RowMap(bound.rewards[address][i], i, needs))
    return row_maps


def _is_needed(plan: Plan, term: Term, request: Request) -> bool:
    return term in needed(plan, plan.scores, request.values)


def _is_weighed(columns: Sequence[int], request: Request) -> bool:
    return all(request.values[column] != 0 for column in columns)
