"""Search over full continuations: several slots per request, valued and copied as a group needs.

`best_of(r, n)` draws n samples, and may drop the worse on the way (speculative rejection, Sun et
al. 2024); `blockwise(r, beams, samples, length)` goes on from the best beams (controlled decoding,
Mudgal et al. 2024; weak-to-strong search, Zhou et al. 2024); `reject(r, …)` goes on from the first
segment that is accepted (CARDS, Li et al. 2024); `particles(r, n)` resamples by weight. The prompt
is read once, every token is read once, and a row that is left is overwritten by a copy of one that
is kept, or goes back to where its segment began. Rows that are dropped free their slots.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

import torch

from ...batch.batch import Batch
from ...batch.pages import Pages, has_rows, pages_to_begin, pages_to_end
from ...batch.prompt_counts import count_prompts
from ...batch.rewrite import Rewrite, copy_slots, rewrite, take_back
from ...engine.engine import Engine
from ...engine.launch import ScheduledBatch
from ...engine.pending import PendingStep
from ...requests.answer import Answer
from ...requests.request import Request, length_of
from ..scheduler import Progress, Scheduler
from .group import Group
from .groups import group_of
from .suspended import Suspended, drawn_of, suspended
from .values import Values


class SearchScheduler(Scheduler):
    """Requests on their way through a plan whose last stage searches."""

    def __init__(self, engine: Engine, batch: Batch) -> None:
        super().__init__(engine, batch)
        assert engine.bound.plan.search is not None
        self._values = Values(engine.bound)
        self._groups: dict[Group, Request] = {}
        self._joining: dict[Group, Request] = {}  # whose prompts are being read
        self._taken: Counter[int] = Counter()  # steps, by the ids of the requests
        self._owed: dict[int, int] = {}  # the same, of those that began again
        self._suspended: dict[int, Suspended] = {}  # by the ids of the requests

    @classmethod
    def slots_of(cls, engine: Engine, request: Request) -> int:
        return len(group_of(request, engine.bound).answers)

    def needs(self, request: Request) -> int:
        known = self._suspended.get(id(request))
        return self.slots_of(self._engine, request) if known is None else len(known.answers)

    def holds(self, request: Request) -> bool:
        return any(known is request for known in self._groups.values())

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self._joining or self._groups)

    def _let_in(self, requests: Sequence[Request]) -> None:
        known = [self._suspended.get(id(request)) for request in requests]
        groups = [
            group_of(request, self._engine.bound) if each is None else each.group
            for request, each in zip(requests, known, strict=True)
        ]
        self._joining = dict(zip(groups, requests, strict=True))
        rows = [answer.request for group in groups for answer in group.answers]
        self.batch.admit(rows, drawn_of(self._suspended))

    def _pages_to_begin(self, request: Request) -> Pages:
        """Those of its prompts, which are read once, and what each other row has of its own."""
        if known := self._suspended.get(id(request)):
            return self._pages_to_go_on(known)
        pages = super()._pages_to_begin(request)
        more = self.slots_of(self._engine, request) - 1
        for row_map in self.batch.row_maps:
            if row_map.term.lane in pages and row_map.needs(request):
                lane, tokens = (
                    self.batch.bound.lanes[row_map.term.lane],
                    length_of(row_map.prompt(request)),
                )
                pages[row_map.term.lane] += more * (
                    lane.pages_of(tokens + 1) - lane.shared_pages(tokens)
                )
        return pages

    def _pages_to_go_on(self, known: Suspended) -> Pages:
        """Those of all its rows, each with its answer."""
        total = Counter[int]()
        for answer in known.answers:
            total.update(pages_to_begin(self.batch, answer.request, answer.tokens))
        return dict(total)

    def _has_pages_apart(self, group: Group) -> bool:
        """Whether all rows of a group have room if they share none, as when they are read again."""
        total = Counter[int]()
        for answer in group.answers:
            total.update(pages_to_end(self.batch, answer.request, answer.tokens))
        lanes = self.batch.bound.lanes
        return all(pages <= lanes[lane].all_pages for lane, pages in total.items())

    def read(self, most: float | None = None) -> int:
        read = self.batch.read(most)
        if self.batch.arriving is None:
            now = time.perf_counter()
            for group, slots in self._slots(self._joining).items():
                if known := self._suspended.pop(id(self._joining[group]), None):
                    known.resume(self.batch, slots)
                    self._taken[id(self._joining[group])] = known.taken
                    continue
                for answer in (*group.answers, group.best):
                    answer.started = now
                for slot, answer in zip(slots, group.answers, strict=True):
                    cached = count_prompts(self.batch, slot, self._engine.stats)
                    if answer is group.answers[0]:
                        group.best.cached_tokens = cached
                    answer.cached_tokens = cached
            self._groups, self._joining = self._groups | self._joining, {}
            self._arriving = []
            for request in self._dropped:
                self.drop(request)
            self._dropped.clear()
        return read

    def _with_slots(self, pools: Container[int]) -> Sequence[Request]:
        slots = self._slots(self._groups)
        firsts = {slots[group][0]: request for group, request in self._groups.items()}
        return [each for slot, each in firsts.items() if has_rows(self.batch, slot, pools)]

    def _abandon(self) -> None:
        super()._abandon()
        self._joining = {}

    def _take_from_slots(self, request: Request) -> None:
        [group] = (group for group, known in self._groups.items() if known is request)
        slots = self._slots([group])[group]
        if not self._has_pages_apart(group):  # it begins again, and will draw the same
            self._ended([group])
            return
        self._suspended[id(request)] = suspended(
            group, self.batch, slots, self._taken.pop(id(request), 0)
        )
        del self._groups[group]
        self._turns.pop(id(request), None)
        self.batch.finish(slots)

    def withdraw(self, request: Request) -> None:
        super().withdraw(request)
        self._suspended.pop(id(request), None)

    def schedule(self) -> ScheduledBatch | None:
        """The rows that take the next step, once the groups that are due have selected theirs."""
        self._select()
        if not self._groups:
            return None
        proposal = self._speculation.proposal(*self._in_slots())
        return ScheduledBatch(self._engine, self.batch, (), proposal)

    def _in_slots(self) -> tuple[list[Answer], list[int]]:
        answers: list[Answer] = [None] * self.batch.count  # type: ignore[list-item]
        rooms = [0] * self.batch.count
        for group, slots in self._slots(self._groups).items():
            own = group.rooms if group.best.error is None else [0] * len(group.answers)
            for slot, answer, room in zip(slots, group.answers, own, strict=True):
                answers[slot], rooms[slot] = answer, room
        return answers, rooms

    def postprocess(self, ahead: int | None = None) -> list[Answer]:
        """The best answers of the requests that have ended, or their errors.

        A row that has ended draws on until its request has, and none of that counts.
        """
        if self.pending:
            self._take(self.pending.popleft())
            self._taken.update(map(id, self._groups.values()))
            self._select()
        over = [group for group in self._groups if group.over or group.best.error is not None]
        return self._ended(over)

    def _take(self, pending: PendingStep) -> None:
        """Give the groups the tokens of a step, and go on with those that they take."""
        tokens, errors, _, unsure, observed = pending.collected(self._engine.errors)
        self._speculation.record(tokens, observed)
        taken: list[Sequence[int]] = [()] * len(tokens)
        standing: dict[int, Answer] = {}
        for group, slots in self._slots(self._groups).items():
            drawing = [slot for slot, room in zip(slots, group.rooms, strict=True) if room]
            error = next((errors[slot] for slot in errors if slot in drawing), None)
            if error is not None:
                group.best.fail(error)
            elif group.best.error is None:
                rows = [tokens[slot] for slot in slots], [unsure[slot] for slot in slots]
                counts = zip(slots, group.take(*rows), group.answers, strict=True)
                for slot, count, answer in counts:
                    taken[slot] = tokens[slot][:count]
                    if not count:
                        standing[slot] = answer
        if pending.verified is not None:
            pending.verified.settle(self.batch, taken)
            self._engine.stats.tokens += sum(map(len, taken))
        elif self.batch.search_scores is not None:
            still = [slot for slot, each in enumerate(taken) if not each]
            self.batch.search_scores[still] = self.batch.state.scores_before[still]
        if pending.verified is None and standing:
            self._take_back(standing)

    def _take_back(self, standing: Mapping[int, Answer]) -> None:
        """Where a row that stands still has drawn as much as there is room for, undo that."""
        steps = self.batch.state.noise()[1]
        full = {
            slot: answer.tokens
            for slot, answer in standing.items()
            if steps[slot] >= answer.request.max_new_tokens
        }
        take_back(self.batch, full)

    def drop(self, request: Request) -> None:
        groups = [group for group, known in self._groups.items() if known is request]
        if any(joining is request for joining in self._joining.values()):
            self._dropped.append(request)
        elif groups:
            self._ended(groups)
        else:
            super().drop(request)

    @property
    def behind(self) -> bool:  # type: ignore[override]
        return any(self._taken[key] < steps for key, steps in self._owed.items())

    def interrupt(self) -> dict[int, Progress]:
        requests = [*self._groups.values(), *self._joining.values()]
        progress = super().interrupt() | {id(each): self._taken[id(each)] for each in requests}
        for known in (self._groups, self._joining, self._taken, self._owed):
            known.clear()
        return progress

    def resume(self, requests: Sequence[Request], progress: Mapping[int, Progress]) -> None:
        """Begin again: a search says nothing before its end, and will draw the same."""
        self._read_at_once(requests)
        for request in requests:
            taken = progress.get(id(request), 0)
            self._owed[id(request)] = taken + 1 if isinstance(taken, int) else 1

    def value(self, logprobs: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
        """The value of one text that a batch of one slot has read, and what each model says of it.

        ``logprobs`` are those of each token of the answer, by a search's language models.

        Raises:
            FormulaError: it is no finite number.
        """
        length = len(logprobs)
        if self.batch.search_scores is not None and length:
            totals = [math.fsum(own) for own in zip(*logprobs, strict=True)]
            self.batch.search_scores[0, : len(totals)] = torch.tensor(totals)
        value = float(self._values.of(self.batch, [length])[0])
        if not value < math.inf:
            raise self._values.error(0, self.batch.requests[0])
        return value, self._values.said(0)

    def _ended(self, groups: Sequence[Group]) -> list[Answer]:
        """Their best answers; their slots are free."""
        slots = [slot for own in self._slots(groups).values() for slot in own]
        for group in groups:
            request = group.best.request = self._groups.pop(group)
            request.states.clear()
            self._taken.pop(id(request), None)
            self._turns.pop(id(request), None)
            self._owed.pop(id(request), None)
        self.batch.finish(slots)
        return [group.best for group in groups]

    def _select(self) -> None:
        """Give the groups that are due the values of their answers, and move their rows."""
        due = [group for group in self._groups if group.due and group.best.error is None]
        if not due:
            return
        batch = self.batch
        lengths = [0] * batch.count
        slots_of = self._slots(self._groups)
        for group, slots in slots_of.items():
            for slot, answer in zip(slots, group.answers, strict=True):
                lengths[slot] = len(answer.tokens)
        values, scores = self._values.with_scores(batch, lengths)
        sources, rewrites = list(range(batch.count)), dict[int, Rewrite]()
        dropped: list[int] = []
        for group in due:
            slots = slots_of[group]
            own = [values[slot] for slot in slots]
            if wrong := [slot for slot in slots if not values[slot] < math.inf]:
                group.best.fail(self._values.error(wrong[0], group.best.request))
                continue
            chosen, rewritten = group.select(own, [scores[slot] for slot in slots])
            if not group.over and group.best.error is None:
                staying = {id(answer.request) for answer in group.answers}
                dropped += [slot for slot in slots if id(batch.requests[slot]) not in staying]
                for slot, row in zip(slots, chosen, strict=True):
                    sources[slot] = slots[row]
                rewrites |= dict(zip(slots, rewritten, strict=False))
        copy_slots(batch, sources)
        rewrite(batch, rewrites)
        batch.finish(dropped)

    def _slots(self, groups: Iterable[Group]) -> dict[Group, list[int]]:
        """Where the answers of groups are; slots change when others leave."""
        where = {id(request): slot for slot, request in enumerate(self.batch.requests)}
        return {group: [where[id(answer.request)] for answer in group.answers] for group in groups}
