"""The batch: requests in slots, and which rows of which lanes each of them holds.

Slots 0 to ``count`` are in use and nothing else is. All bookkeeping happens when a request joins or
leaves; a step only reads the tensors that are left behind here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..formula import Plan, Read, Term
from ..formula.plan import Node, weighted_children
from .bind import Bound, Reader
from .requests import Reading, Request, ids_of


class Seat:
    """One reader's rows: which row of its lane each slot holds.

    Attributes:
        rows: ``(slots,)`` int64; a slot without a row points at row 0, with the weight 0.
        present: ``(slots,)`` bool, whether the slot has a row.
        live: whether any slot has a row.
        whole: whether slot i holds row i of a lane that has no others, so that nothing is gathered.
    """

    def __init__(self, reader: Reader, number: int, needs: Callable[[Request], bool]) -> None:
        self.reader, self.number, self.needs = reader, number, needs
        self.held: list[int | None] = []
        self.rows = self.present = torch.empty(0)
        self.live = self.whole = False

    def settle(self, lane_rows: int, device: torch.device) -> None:
        """Make the tensors after the slots have changed."""
        self.live = any(row is not None for row in self.held)
        self.whole = self.held == list(range(lane_rows))
        self.rows = torch.tensor([row or 0 for row in self.held], device=device)
        self.present = torch.tensor([row is not None for row in self.held], device=device)


class Batch:
    """The slots of one run.

    Attributes:
        requests: per slot in use.
        values: ``(slots, scalars)`` float32, the plan's numbers.
        ranges: the least and the largest of each number over the slots; known on the host.
        temperatures: ``(slots,)`` float32.
        keys: ``(slots, 2)`` int32, and ``steps``, ``(slots,)`` int64: each row's noise.
        judged: ``(slots,)`` float32, each text's sum of scores by the models of a search.
        seen: ``(slots, V)`` bool where a stage needs it.
        owners: per lane, ``(rows,)`` the slot of each row.
    """

    def __init__(self, bound: Bound, slots: int, capacity: int, track_seen: bool) -> None:
        self.bound, self.slots, self.capacity = bound, slots, capacity
        self.device = bound.lanes[bound.readers[0].lane].device
        self.requests: list[Request] = []
        scalars = bound.plan.scalars
        self.values = torch.zeros(slots, len(scalars), device=self.device)
        self.temperatures = torch.zeros(slots, device=self.device)
        self.keys = torch.zeros(slots, 2, dtype=torch.int32, device=self.device)
        self.steps = torch.zeros(slots, dtype=torch.long, device=self.device)
        self.judged = torch.zeros(slots, device=self.device)
        self.seen: Tensor | None = None
        if track_seen:
            shape = (slots, bound.vocabulary)
            self.seen = torch.zeros(shape, dtype=torch.bool, device=self.device)
        self.seats = _seats(bound)
        self.owners: list[Tensor] = [torch.empty(0) for _ in bound.lanes]
        self._owned: list[list[tuple[int, int]]] = [[] for _ in bound.lanes]
        self.ranges: list[tuple[float, float]] = []
        self.samples = False
        self._reserve()

    @property
    def count(self) -> int:
        """Slots in use."""
        return len(self.requests)

    def admit(self, requests: Sequence[Request]) -> None:
        """Give each request the next slot, and its terms the rows that they need."""
        first = self.count
        for request in requests:
            slot = self.count
            self.requests.append(request)
            self.values[slot] = torch.tensor(request.values)
            self.temperatures[slot] = request.temperature
            self.keys[slot] = torch.tensor(request.key, dtype=torch.int32)
            self.steps[slot], self.judged[slot] = 0, 0
            if self.seen is not None:
                read = [token for ids in ids_of(request.prompts, {}) for token in ids]
                self.seen[slot] = False
                self.seen[slot, [token for token in read if token < self.bound.vocabulary]] = True
        for number, lane in enumerate(self.bound.lanes):
            self._admit_rows(number, lane, range(first, self.count))
        self._settle()

    def finish(self, slots: Sequence[int]) -> None:
        """Free slots; the last in use take their places."""
        for slot in sorted(slots, reverse=True):
            self._release_rows(slot)
            last = self.count - 1
            tensors = [self.values, self.temperatures, self.keys, self.steps, self.judged]
            for tensor in tensors + ([self.seen] if self.seen is not None else []):
                tensor[slot] = tensor[last]
            self.requests[slot] = self.requests[last]
            self.requests.pop()
            for number, seat in enumerate(self.seats):
                moved = seat.held[last]
                seat.held[slot] = moved
                seat.held.pop()
                if moved is not None and slot != last:
                    self._owned[seat.reader.lane][moved] = (number, slot)
        self._settle()

    def copy(self, sources: Sequence[int]) -> None:
        """Make each slot i what slot ``sources[i]`` was; its noise stays its own.

        Slot and source must be rows of one request's values.
        """
        moved = [(source, slot) for slot, source in enumerate(sources) if source != slot]
        if not moved:
            return
        for tensor in [self.steps, self.judged] + ([self.seen] if self.seen is not None else []):
            tensor[[slot for _, slot in moved]] = tensor[[source for source, _ in moved]]
        rows: list[list[tuple[int, int]]] = [[] for _ in self.bound.lanes]
        for seat in self.seats:
            for source, slot in moved:
                one, other = seat.held[source], seat.held[slot]
                if one is not None and other is not None:
                    rows[seat.reader.lane].append((one, other))
        for lane, pairs in zip(self.bound.lanes, rows, strict=True):
            if pairs:
                lane.copy_rows([one for one, _ in pairs], [other for _, other in pairs])

    def text_rewards(self, lane: int, lengths: Sequence[int]) -> Tensor:
        """``(rows, labels)`` of a reward lane: its texts so far, each cut to what was answered.

        Args:
            lane: its number.
            lengths: per slot, the tokens of the answer; whatever was drawn after them is dropped.
        """
        ends = []
        for number, slot in self._owned[lane]:
            read = _reading(self.seats[number], self.requests[slot])
            ends.append((0 if isinstance(read, str) else len(read)) + lengths[slot])
        rows = self.bound.lanes[lane]
        rows.rows.cut(ends)
        nothing = torch.zeros(len(ends), 0, dtype=torch.long, device=self.device)
        outputs: Tensor = rows.rewards(nothing)[1]
        return outputs

    def _reserve(self) -> None:
        """Room in every lane, for all its readers and the candidates of its stage."""
        for number, lane in enumerate(self.bound.lanes):
            readers = [seat.reader for seat in self.seats if seat.reader.lane == number]
            lane.reserve(self.slots * len(readers), self.capacity)

    def _admit_rows(self, number: int, lane: object, slots: range) -> None:
        prompts, adapters, places = [], [], []
        for index, seat in enumerate(self.seats):
            if seat.reader.lane != number:
                continue
            for slot in slots:
                seat.held.append(None)
                request = self.requests[slot]
                if not seat.needs(request):
                    continue
                prompts.append(_reading(seat, request))
                adapters.append(seat.reader.adapter)
                places.append((index, slot))
        if prompts:
            rows = self.bound.lanes[number].admit(prompts, adapters)
            for row, (index, slot) in zip(rows, places, strict=True):
                self.seats[index].held[slot] = row
            order = sorted(zip(rows, places, strict=True))
            self._owned[number] += [place for _, place in order]

    def _release_rows(self, slot: int) -> None:
        for seat in self.seats:
            row, lane = seat.held[slot], seat.reader.lane
            if row is None:
                continue
            last = self.bound.lanes[lane].release(row)
            owner = self._owned[lane][last]
            self._owned[lane][row] = owner
            self._owned[lane].pop()
            if last != row:
                self.seats[owner[0]].held[owner[1]] = row
            seat.held[slot] = None

    def _settle(self) -> None:
        for lane, owned in enumerate(self._owned):
            owners = torch.tensor([slot for _, slot in owned], dtype=torch.long)
            self.owners[lane] = owners.to(self.device)
        for seat in self.seats:
            seat.settle(len(self._owned[seat.reader.lane]), self.device)
        columns = zip(*(request.values for request in self.requests), strict=True)
        self.ranges = [(min(column), max(column)) for column in columns]
        self.samples = any(request.temperature > 0 for request in self.requests)


def _reading(seat: Seat, request: Request) -> Reading:
    """What the reader of a seat reads for a request."""
    if seat.reader.place is None:
        return request.prompts[seat.number]
    return request.rewards[seat.reader.place][seat.number]


def _seats(bound: Bound) -> list[Seat]:
    """A seat per term, in the plan's order, then one per reward model of each stage."""
    plan, columns = bound.plan, bound.plan.columns
    seats = []
    for i, reader in enumerate(bound.readers):
        seats.append(Seat(reader, i, partial(_is_needed, plan, reader.term)))
    for place, stage in plan.reranks:
        parts = zip(stage.reward.parts, bound.rewards[place], strict=True)
        for i, ((coefficient, _), reader) in enumerate(parts):
            both = (columns[coefficient], columns[stage.w])
            seats.append(Seat(reader, i, partial(_is_weighed, both)))
    if plan.search is not None:
        place, search = plan.search
        for i, ((coefficient, _), reader) in enumerate(
            zip(search.r.parts, bound.rewards[place], strict=True)
        ):
            seats.append(Seat(reader, i, partial(_is_weighed, (columns[coefficient],))))
    return seats


def _is_needed(plan: Plan, term: Term, request: Request) -> bool:
    return term in needed(plan, plan.scores, request.values)


def _is_weighed(columns: Sequence[int], request: Request) -> bool:
    return all(request.values[column] != 0 for column in columns)


def needed(plan: Plan, node: Node, values: Sequence[float]) -> set[Term]:
    """The terms that a row with these values depends on: those behind no coefficient of 0."""
    if isinstance(node, Read):
        return {node.term}
    return set().union(*(
        needed(plan, child, values)
        for number, child in weighted_children(node)
        if number is None or values[plan.columns[number]] != 0
    ))  # fmt: skip
