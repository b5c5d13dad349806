"""The batch: requests in slots, and which rows of which lanes each of them has.

Slots 0 to ``count`` are in use. Steps that are recorded work on a bucket of slots, where idle ones
follow: what they compute is never looked at. All bookkeeping happens on the host when a request
joins or leaves, and ``upload_changes`` brings it to the devices before the next step.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...formula.words.stages import Lookahead, Rerank
from ...models.lanes.prefill import CHUNK
from ...models.recordings import bucket
from ...models.upload import Changes, Mirror, fill, upload
from ..binding.bound import Bound, reward_stages
from ..requests.request import PROCESSED, Request, length_of
from ..scores.context import ScalarColumn, numbers_of
from ..scores.logprobs import columns
from ..scores.thoughts import RowThoughts
from .needs import needs_reward, needs_term, needs_to_draft
from .row_map import RowMap, widest
from .slot_state import SlotState, Start, table_rows

# A lane's number; of each row, its row map and the request's place; and what reads their prompts.
Arrival: TypeAlias = tuple[int, Sequence[tuple[int, int]], Any]


class Batch:
    """The slots of one run.

    Attributes:
        requests: per slot in use, and ``count``, how many.
        capacity: tokens of a text at most, and ``tokens``, of all texts, where rows share pages.
        arriving: prompts that are being read, whose requests have no slots yet; or None.
        values: ``(slots, scalars)`` float32, the plan's numbers.
        numbers: the same for the slots in use, with what the host knows of each.
        temperatures: ``(slots,)`` float32.
        keys: ``(slots, 2)`` int32, and ``steps``, ``(slots,)`` int64: each row's noise.
        state: how far each slot is; ``search_scores`` and ``tables`` are its; ``thoughts``, which
            of them are in a thought, where the plan needs it; or None.
        logprobs: whether steps give the drawn tokens' log-probabilities; ``top_logprobs``, of how
            many of the best.
        processed: ``(slots,)`` bool, whose are of what is drawn from; ``any_processed``, whether
            any in use.
        by_component: whether any in use draws components of the final mixture; and ``drawn``, how
            many have drawn each in this step: parts of the mixture, or -1 for all of it.
        constrained: whether the answer of any in use is to fit something.
        mirrored: whether any device has memory of its own.
        stale: whether the devices do not have yet what the host has.
        owners: per lane, ``(rows,)`` the slot of each row; ``owned``, on the host, the number of
            its row map and its slot.
        paged: the lanes whose rows share pages, and whether they score candidates; and ``widest``,
            how many of these a row has at most.
        prepared: by steps, what each keeps between two changes of the slots.
        bucketed: whether there are idle slots, and ``width``, how many slots with them.
        token_columns: per lane of another vocabulary, where the formula's tokens are in it.
        unread: ``(slots, V)`` bool, the tokens that some model of a row cannot read, or that one
            of a search has no counterpart of; None where no row has such a model.
    """

    def __init__(self, bound: Bound, slots: int, capacity: int, tokens: int) -> None:
        self.bound, self.capacity, self.tokens, self.count = bound, capacity, tokens, 0
        self.slots = self.most = slots
        self.bucketed, self.widest = False, 0
        self.device = bound.lanes[bound.terms[0].lane].device
        self.mirrored = not all(Mirror.on_host(lane.device) for lane in bound.lanes)
        self.row_maps = _row_maps(bound)
        self.token_columns = {
            row_map.term.lane: columns(token_map, self.device)
            for row_map in self.row_maps
            if (token_map := row_map.term.token_map) is not None
        }
        self.unread: Tensor | None = None
        self._unread = torch.empty(0)
        if self.token_columns:
            size = slots, bound.vocabulary
            self._unread = torch.zeros(size, dtype=torch.bool, device=self.device)
        self.samples = self.logprobs = self.any_processed = self.constrained = False
        self.top_logprobs = 0
        self.requests: list[Request] = []
        self.owned: list[list[tuple[int, int]]] = [[] for _ in bound.lanes]
        self.numbers: list[ScalarColumn] = []
        self.prepared: dict[Any, Any] = {}
        self.stale = False
        self.arriving: Generator[int] | None = None
        self.promised = 0  # slots of the requests that arrive
        self._pending = 0  # tokens of the forward that arriving prompts wait for
        self._reserve(self._reserve_lanes())

    @property
    def width(self) -> int:
        """Slots of a step: those in use, and the idle ones of their bucket."""
        return bucket(self.count, self.most) if self.bucketed else self.count

    def has_room(self, slots: int, capacity: int) -> bool:
        """Whether a batch of so many slots and texts can begin again over this one's memory."""
        return slots <= self.most and capacity <= self.capacity

    def restart(self, slots: int, bucketed: bool) -> None:
        """Begin again over the same memory, with so many slots at most, all of them empty."""
        self.slots, self.bucketed, self.count = slots, bucketed, 0
        self.requests, self.owned = [], [[] for _ in self.bound.lanes]
        self.arriving, self.promised, self._pending = None, 0, 0
        self.numbers, self.prepared = [], {}
        for row_map in self.row_maps:
            row_map.held = []
        for columns_of_lane in self.token_columns.values():
            columns_of_lane.share.zero_()
        self.state.clear()
        self._reserve_lanes()

    @property
    def room(self) -> int:
        """Slots that a request could be given; none while others arrive."""
        return 0 if self.arriving is not None else self.slots - self.count

    def admit(
        self, requests: Sequence[Request], answers: Mapping[int, Sequence[int]] | None = None
    ) -> None:
        """Let requests in; they have slots when ``read`` says so. One such call at a time.

        Args:
            requests: to let in.
            answers: by the ids of those who had slots before, the tokens that they have drawn.

        Raises:
            OutOfPages: there is no room for their prompts.
        """
        arrivals, drawn = [], [(answers or {}).get(id(request), ()) for request in requests]
        try:
            for number, lane in enumerate(self.bound.lanes):
                owners = [
                    (index, position)
                    for index, row_map in enumerate(self.row_maps)
                    for position, request in enumerate(requests)
                    if row_map.term.lane == number and row_map.needs(request)
                ]
                prompts = [self.row_maps[index].text(requests[i], drawn[i]) for index, i in owners]
                combinations = [
                    self.row_maps[index].combination(self.bound, requests[i]) for index, i in owners
                ]
                if prompts:
                    arrivals.append((number, owners, lane.admit(prompts, combinations)))
        except BaseException:
            for lane in self.bound.lanes:
                lane.discard()
            raise
        self.arriving, self.promised = self._read(requests, arrivals, drawn), len(requests)

    def abandon(self) -> None:
        """Let go of the requests that arrive, as if they had never been let in."""
        if self.arriving is not None:
            self.arriving.close()
            for lane in self.bound.lanes:
                lane.discard()
        self.arriving, self.promised, self._pending = None, 0, 0

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

    def _read(
        self,
        requests: Sequence[Request],
        arrivals: Sequence[Arrival],
        drawn: Sequence[Sequence[int]],
    ) -> Generator[int]:
        """Read prompts, saying before each forward how many tokens it reads; then join."""
        joins, changes = [], list[tuple[Tensor, Tensor]]()
        for number, _, _ in arrivals:
            changes += self.bound.lanes[number].changes()
        upload(changes)  # what all lanes read first, together
        for _, _, reading in arrivals:
            joins.append((yield from reading))
        first = self.count
        self._join(requests)
        for (number, owners, _), join in zip(arrivals, joins, strict=True):
            rows = [(row, i, first + at) for row, (i, at) in zip(join(), owners, strict=True)]
            for row, index, slot in rows:
                self.row_maps[index].held[slot] = row
            self.owned[number] += [(index, slot) for _, index, slot in sorted(rows)]
        for slot, answer in enumerate(drawn, first):
            if answer:
                self._go_on(slot, answer)
        self._settle()

    def _go_on(self, slot: int, answer: Sequence[int]) -> None:
        """Have a slot go on after what it has drawn before, which its prompts end with."""
        key = self.requests[slot].key
        self.state.rewrite(slot, key, len(answer), self.start(slot, answer))
        for row_map in self.row_maps:
            row = row_map.held[slot]
            if row is not None and not length_of(row_map.prompt(self.requests[slot])):
                lane = self.bound.lanes[row_map.term.lane]
                lane.rows.rewrite({row: (0, row_map.term.term_ids(answer))})

    def _join(self, requests: Sequence[Request]) -> None:
        """Give each request the next slot."""
        for request in requests:
            self.requests.append(request)
            self.state.join(request.key, self.start(self.count, ()))
            self.count += 1
        for row_map in self.row_maps:
            row_map.held += [None] * len(requests)

    def finish(
        self,
        slots: Sequence[int],
        *per_slot: list[Any],
        answers: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        """Free slots; the last in use take their places, also in the lists kept per slot.

        Args:
            slots: to free.
            per_slot: lists with an item of each.
            answers: the tokens that slots have drawn, for others whose prompts begin with them.
        """
        if not slots:
            return
        for slot in sorted(slots, reverse=True):
            self._release_rows(slot, (answers or {}).get(slot, ()))
            last = self.count - 1
            self.state.leave(slot)
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

    def start(self, slot: int, answer: Sequence[int], search_scores: Sequence[float] = ()) -> Start:
        """What a slot goes on from that has this answer."""
        request = self.requests[slot]
        thought = self.thoughts.start(request, answer) if self.thoughts else 0
        return Start(search_scores, table_rows(self.bound, request, answer), thought)

    def changed(self) -> None:
        """What the devices have of the slots is not what the host has."""
        self.stale, self.prepared = True, {}

    def prompt_length(self, number: int, slot: int) -> int:
        """Tokens that a row of a row map read before the answer."""
        return length_of(self.row_maps[number].prompt(self.requests[slot]))

    def changes(self) -> Changes:
        """What the host has changed, to be copied to the device; then comes ``moved``."""
        if not self.stale:
            return []
        self.stale = False
        host, used = self.state.mirror.host, slice(self.width)
        owners: list[int] = []
        for on_device, owned in zip(self._owners, self.owned, strict=True):
            owners += [slot for _, slot in owned] + [0] * (len(on_device) - len(owned))
        fill(host.owners, owners)
        idle = [None] * (self.width - self.count)
        held = [[*row_map.held, *idle] for row_map in self.row_maps]
        fill(host.rows[:, used], [[row or 0 for row in rows] for rows in held])
        fill(host.present[:, used], [[row is not None for row in rows] for rows in held])
        return self.state.changes(self.requests)

    def moved(self) -> None:
        """Do on the device what follows from changes that are there."""
        self.state.move()
        if self.unread is not None:
            (row_map, tokens), *others = self._hidden()
            torch.logical_and(row_map.present[:, None], tokens, out=self.unread)
            for row_map, tokens in others:
                self.unread |= row_map.present[:, None] & tokens

    def _reserve(self, lane_rows: list[int]) -> None:
        """Room for the slots, whose rows are so many in each lane."""
        bound, row_maps = self.bound, self.row_maps
        self.state = state = SlotState(
            self.device, self.most, len(bound.scalars), sum(lane_rows), len(row_maps),
            bound.vocabulary, bound.search_columns, bound.tables, bound.thinks, self.capacity,
        )  # fmt: skip
        device = state.mirror.device
        self.values, self.temperatures = device.values, device.temperatures
        self.keys, self.steps, self.processed = device.keys, device.steps, device.processed
        self.search_scores, self.tables = state.search_scores, state.tables
        self.thoughts = None if state.thoughts is None else RowThoughts(bound, state.thoughts)
        self._owners: Sequence[Tensor] = device.owners.split(lane_rows)
        self.owners: list[Tensor] = [owners[:0] for owners in self._owners]
        for row_map, rows, present in zip(row_maps, device.rows, device.present, strict=True):
            row_map.reserve(rows, present)

    def _reserve_lanes(self) -> list[int]:
        """Room in every lane, for all its terms and the candidates of its stage: rows of each."""
        reserved, self.paged = [], []
        for number, lane in enumerate(self.bound.lanes):
            each = sum(term.lane == number for term in self.bound.all_terms)
            rows, more = self.most * each, number in self.token_columns  # where the next one goes
            lane.reserve(rows, self.capacity + more, self.tokens * each)
            lane.use_buckets(self.bucketed)
            reserved.append(rows)
            if lane.all_pages is not None:
                terms = [term for term in self.bound.all_terms if term.lane == number]
                self.paged.append((lane, not all(term.language for term in terms)))
        return reserved

    def _release_rows(self, slot: int, answer: Sequence[int]) -> None:
        for row_map in self.row_maps:
            row, lane = row_map.held[slot], row_map.term.lane
            if row is None:
                continue
            text = row_map.text(self.requests[slot], answer) if answer else ()
            last = self.bound.lanes[lane].release(row, text)
            owner = self.owned[lane][row] = self.owned[lane][last]
            self.owned[lane].pop()
            if last != row:
                self.row_maps[owner[0]].held[owner[1]] = row
            row_map.held[slot] = None

    def _settle(self) -> None:
        for number, owners in enumerate(self._owners):
            self.owners[number] = owners[: self.bound.lanes[number].rows.width]
        for row_map in self.row_maps:
            lane = row_map.term.lane
            lane_width = self.bound.lanes[lane].rows.width
            row_map.settle(len(self.owned[lane]), lane_width, self.width)
        self.unread = self._unread[: self.width] if self._hidden() else None
        if self.paged:
            wide = (widest(self.bound.plan, request) for request in self.requests)
            self.widest = max(wide, default=0)
        values = [request.values for request in self.requests]
        self.numbers = numbers_of(self.values[: self.width], values)
        self.changed()
        self.samples = any(request.temperature > 0 for request in self.requests)
        constraints = [request.constraint for request in self.requests]
        self.constrained = bool(self.bound.constraints.stages) or any(constraints)
        self.by_component = any(request.sample_components for request in self.requests)
        self.drawn: Mapping[int, int] = {}
        asking = [request for request in self.requests if request.logprobs]
        self.logprobs = bool(asking)
        self.any_processed = any(request.logprobs_mode == PROCESSED for request in asking)
        self.top_logprobs = max((request.top_logprobs for request in asking), default=0)

    def _hidden(self) -> list[tuple[RowMap, Tensor]]:
        """The tokens that a row with such a model cannot be given, per row map."""
        return [
            (row_map, at.absent if row_map.term.address else at.unreadable)
            for row_map in self.row_maps
            if row_map.live and (at := self.token_columns.get(row_map.term.lane))
        ]


def _row_maps(bound: Bound) -> list[RowMap]:
    """A row map per term, in the plan's order, per reward model of each stage, and of drafts."""
    plan = bound.plan
    row_maps = [
        RowMap(term, i, partial(needs_term, plan, term.term)) for i, term in enumerate(bound.terms)
    ]
    for address, stage, reward in reward_stages(plan):
        w = stage.w if isinstance(stage, (Lookahead, Rerank)) else None
        for i, each in enumerate(reward.terms):
            needs = partial(needs_reward, plan, reward, each, w)
            row_maps.append(RowMap(bound.rewards[address][i], i, needs))
    for i, term in enumerate(bound.draft_terms):
        row_maps.append(RowMap(term, i, partial(needs_to_draft, bound, i), only_draft=True))
    return row_maps
