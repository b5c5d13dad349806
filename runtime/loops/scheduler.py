"""The scheduler: requests of one plan that wait, that have slots, and whose step is pending.

Three beats per step: schedule, run, postprocess. Whoever drives it may add and drop requests
between two steps, and drive several schedulers together.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Container, Mapping, Sequence
from itertools import count
from typing import TypeAlias

from ..batch.batch import Batch
from ..batch.pages import Pages, extend, has_rows, pages_to_begin, spare_pages
from ..batch.prompt_counts import count_prompts
from ..engine.drafting import Proposal
from ..engine.engine import Engine
from ..engine.launch import ScheduledBatch, launch
from ..engine.pending import PendingStep
from ..requests.answer import Answer, answer_to
from ..requests.request import Request
from .speculation.speculation import Speculation

# How far a request has come: its answer; of a search, which begins again, the steps it has taken.
Progress: TypeAlias = Answer | int
_turns = count()  # of all requests of the process, in the order in which they got slots


class Scheduler:
    """Requests on their way through an engine, each a row of the batch, which is empty at first.

    Attributes:
        behind: whether a request that was let in again has not come to where it was.
    """

    behind = False

    def __init__(self, engine: Engine, batch: Batch) -> None:
        self._engine, self.batch = engine, batch
        self.waiting: deque[Request] = deque()
        self._answers: list[Answer] = []  # one per slot
        self.pending: deque[PendingStep] = deque()
        self._dropped: list[Request] = []  # they leave as soon as they have a slot
        self._arriving: list[Request] = []  # whose prompts are being read
        self._preempted: dict[int, Answer] = {}  # by the requests' ids
        self._speculation = Speculation(engine)
        self._turns: dict[int, int] = {}  # of those with slots: who came in first, by their ids

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""
        batch = self.batch
        return bool(self._answers or self.waiting or self.pending or batch.arriving is not None)

    @property
    def held(self) -> int:
        """Slots that are in use, or promised."""
        return self.batch.count + self.batch.promised

    @classmethod
    def slots_of(cls, engine: Engine, request: Request) -> int:
        """Slots that a request takes, from its beginning."""
        return 1

    def needs(self, request: Request) -> int:
        """Slots that a request takes now."""
        return self.slots_of(self._engine, request)

    def admissible(self, requests: Sequence[Request], free: int) -> list[Request]:
        """The first of these that may be let in now, by so many free slots and by free pages."""
        spare, chosen = spare_pages(self.batch), list[Request]()
        for request in requests:
            free -= self.needs(request)
            answer = self._preempted.get(id(request))
            if free < 0 or (answer is not None and len(answer.tokens) < answer.drawn):
                break  # the last token of a preempted one is still on its way
            needed = self._pages_to_begin(request)
            if any(pages > spare[lane] for lane, pages in needed.items()):
                break
            spare = {lane: pages - needed.get(lane, 0) for lane, pages in spare.items()}
            chosen.append(request)
        return chosen

    def admit(self, free: int) -> int:
        """Let waiting requests in, in their order; how many of so many free slots they take."""
        if self.batch.arriving is not None:
            return 0
        self._arriving = self.admissible(self.waiting, min(free, self.batch.room))
        for _ in self._arriving:
            self.waiting.popleft()
        if self._arriving:
            self._turns |= {id(request): next(_turns) for request in self._arriving}
            self._let_in(self._arriving)
        return sum(self.needs(request) for request in self._arriving)

    def _let_in(self, requests: Sequence[Request]) -> None:
        drawn = {key: answer.tokens for key, answer in self._preempted.items()}
        self.batch.admit(requests, drawn)

    def _pages_to_begin(self, request: Request) -> Pages:
        answer = self._preempted.get(id(request))
        return pages_to_begin(self.batch, request, answer.tokens if answer else ())

    def read(self, most: float | None = None) -> int:
        """Read prompts of the requests that were let in, as ``Batch.read``."""
        read = self.batch.read(most)
        if self.batch.arriving is None:
            now, first = time.perf_counter(), len(self._answers)
            for slot, request in enumerate(self.batch.requests[first:], first):
                answer = self._preempted.pop(id(request), None)
                cached = count_prompts(self.batch, slot, self._engine.stats)
                if answer is None:
                    answer = answer_to(request, self._engine.bound, now)
                    answer.cached_tokens = cached
                self._answers.append(answer)
                if any(dropped is request for dropped in self._dropped):
                    self._answers[-1].finish_reason = "cancelled"
            self._dropped.clear()
            self._arriving = []
            self._leave()
        return read

    def preemptible(self, pools: Container[int]) -> list[tuple[int, Request]]:
        """Who has pages of these pools, or gets them; and in which turn they came."""
        requests = [*self._with_slots(pools)]
        if any(lane.pool in pools for lane, _ in self.batch.paged):
            requests += self._arriving
        return [(self._turns[id(request)], request) for request in requests]

    def _with_slots(self, pools: Container[int]) -> Sequence[Request]:
        slots = range(self.batch.count)
        return [self.batch.requests[slot] for slot in slots if has_rows(self.batch, slot, pools)]

    def holds(self, request: Request) -> bool:
        """Whether a request has slots."""
        return any(answer.request is request for answer in self._answers)

    def preempt(self, request: Request) -> None:
        """Have a request wait again, first of all; it goes on later from where it was.

        Where prompts are being read, those of all who came with it wait instead.
        """
        if self._arriving:
            self._abandon()
        else:
            self._take_from_slots(request)
            self.waiting.appendleft(request)
            self._engine.stats.preempted += 1

    def _abandon(self) -> None:
        """Have those whose prompts are being read wait again, but for those who were let go."""
        self.batch.abandon()
        dropped = {id(request) for request in self._dropped}
        self.waiting.extendleft(each for each in self._arriving[::-1] if id(each) not in dropped)
        for request in self._dropped:
            self.withdraw(request)
        self._arriving = []
        self._dropped.clear()

    def _take_from_slots(self, request: Request) -> None:
        slot = next(i for i, answer in enumerate(self._answers) if answer.request is request)
        answer = self._preempted[id(request)] = self._answers[slot]
        self.batch.finish([slot], self._answers, answers={slot: answer.tokens})

    def schedule(self) -> ScheduledBatch | None:
        """The rows that take the next step; None where there are none."""
        if not self._answers:
            return None
        proposal = None
        if self._engine.drafting:
            proposal = self._speculation.proposal(*self._in_slots())
        return ScheduledBatch(self._engine, self.batch, self._answers, proposal)

    def undrafted(self) -> Proposal | None:
        """The next step of those who have slots now, without tokens that were proposed for it."""
        return self._speculation.withdrawn(self._in_slots()[0])

    def _in_slots(self) -> tuple[list[Answer], list[int]]:
        """The answer of each slot, and how many tokens it may take now, at most."""
        rooms = [each.request.max_new_tokens - len(each.tokens) for each in self._answers]
        return self._answers, rooms

    def postprocess(self, ahead: int | None = None) -> list[Answer]:
        """The answers that got a token, or an error, in the oldest step; those over leave.

        On a GPU a step is pending meanwhile, so that there may be none yet; unless ``ahead`` says
        how many steps may be.
        """
        if ahead is None:
            ahead = self._engine.ahead if self._answers else 0
        if len(self.pending) <= ahead:
            return []
        pending = self.pending.popleft()
        collected, updated = pending.collected(self._engine.errors), []
        if pending.verified is not None:
            pending.verified.settle(self.batch, collected.tokens)
            self._engine.stats.tokens += sum(map(len, collected.tokens))
        if self._engine.drafting:
            self._speculation.record(collected.tokens, collected.observed)
        for slot in dict.fromkeys((*collected.errors, *range(len(collected.tokens)))):
            answer = pending.answers[slot]
            if answer.finish_reason is None:
                own = collected.tokens[slot]
                if len(own) == 1 and not collected.logprobs:
                    answer.add(own[0])
                else:
                    answer.extend(own, collected.logprobs[slot] if collected.logprobs else ())
                if pending.verified is not None:
                    answer.drawn = len(answer.tokens)
                if slot in collected.errors and answer.finish_reason is None:
                    answer.fail(collected.errors[slot])
                updated.append(answer)
                if answer.finish_reason is not None:
                    self._no_more(answer.request)
        self._leave()
        return updated

    def _no_more(self, request: Request) -> None:
        """A request has ended; one that was preempted, by the token that was still on its way."""
        request.states.clear()
        if id(request) in self._preempted:
            self.withdraw(request)
            waiting = [each for each in self.waiting if each is not request]
            self.waiting.clear()
            self.waiting.extend(waiting)

    def step(self) -> list[Answer]:
        """All three beats, for those who drive one scheduler: the answers that got a token.

        Raises:
            FormulaError: NaN, or every token excluded.
        """
        if self.waiting:
            self.admit(self.batch.room)
        if self.batch.arriving is not None:
            self.read()
        start = time.perf_counter()
        run([self])
        updated = self.postprocess()
        self._engine.stats.seconds += time.perf_counter() - start
        for answer in updated:
            if answer.error is not None:
                raise answer.error
        return updated

    def drop(self, request: Request) -> None:
        """Let a request go wherever it is; its answer is not reported any more."""
        for position, waiting in enumerate(self.waiting):
            if waiting is request:
                del self.waiting[position]
                self.withdraw(request)
                return
        known = [*self._answers, *(each for pending in self.pending for each in pending.answers)]
        known = [answer for answer in known if answer.request is request]
        for answer in known:
            answer.finish_reason = "cancelled"
        self._dropped += [] if known else [request]  # its prompt is being read
        self._leave()

    def withdraw(self, request: Request) -> None:
        """Forget how far a request came that was preempted, for it will not go on."""
        answer = self._preempted.pop(id(request), None)
        if answer is not None and answer.finish_reason is None:
            answer.finish_reason = "cancelled"  # also where a token is still on its way
        self._turns.pop(id(request), None)

    def interrupt(self) -> dict[int, Progress]:
        """Take all requests out after a step that failed; how far each came, by its id.

        Those whose prompts were being read are left out. The batch is not to be used any more.
        """
        progress: dict[int, Progress] = {id(answer.request): answer for answer in self._answers}
        self._answers, self._arriving = [], []
        for answer in self._preempted.values():
            answer.drawn = len(answer.tokens)  # none is on its way any more
        for queue in (self.waiting, self.pending, self._dropped):
            queue.clear()
        self.batch.abandon()
        return progress

    def resume(self, requests: Sequence[Request], progress: Mapping[int, Progress]) -> None:
        """Let requests into an empty batch again, each with what it had drawn."""
        for request in requests:
            known = progress.get(id(request))
            if isinstance(known, Answer):
                known.drawn = len(known.tokens)
                self._preempted[id(request)] = known
        self._read_at_once(requests)

    def answer(self, request: Request, progress: Mapping[int, Progress]) -> Answer:
        """The answer of a request so far."""
        known = progress.get(id(request))
        if isinstance(known, Answer):
            return known
        return answer_to(request, self._engine.bound, time.perf_counter())

    def _read_at_once(self, requests: Sequence[Request]) -> None:
        self.waiting.extend(requests)
        self.admit(self.batch.room)
        self.read(math.inf)

    def _leave(self) -> None:
        """Free the slots of answers that are over."""
        over = []
        for slot, answer in enumerate(self._answers):
            if answer.finish_reason is not None or answer.drawn >= answer.request.max_new_tokens:
                over.append(slot)
        for slot in over:
            self._turns.pop(id(self._answers[slot].request), None)
        if over:
            known = {slot: self._answers[slot].tokens for slot in over}
            self.batch.finish(over, self._answers, answers=known)


def run(schedulers: Sequence[Scheduler]) -> None:
    """Launch a step of the rows of all schedulers, together; some may have to wait again."""
    scheduled: dict[Scheduler, ScheduledBatch] = {}
    for scheduler in schedulers:
        batch = scheduler.schedule()
        if batch is not None:
            scheduled[scheduler] = batch
    if paged := [each for each in scheduled.values() if each.batch.paged]:
        rows = sum(each.batch.count for each in paged)
        last = any(each.proposal and each.batch.bound.plan.search for each in paged)
        while pools := {pool for each in paged for pool in extend(each.batch, int(last))}:
            if not _preempt_youngest(schedulers, pools):
                break
        scheduled = {each: batch for each, batch in scheduled.items() if batch.batch.count}
        fewer = sum(each.batch.count for each in paged) < rows
        if fewer or _lacks_pages([*scheduled.values()]):  # nobody has to wait for a draft
            for scheduler, each in scheduled.items():
                scheduled[scheduler] = each._replace(proposal=scheduler.undrafted())
    if scheduled:
        for scheduler, pending in zip(scheduled, launch([*scheduled.values()]), strict=True):
            scheduler.pending.append(pending)


def _lacks_pages(scheduled: Sequence[ScheduledBatch]) -> bool:
    """Whether there are too few pages for what is drafted, and read with it.

    Rounds of drafts come last: they read what the others have drawn in the same step.
    """
    if not any(each.proposal for each in scheduled):
        return False
    lacking = [
        extend(each.batch, max(each.proposal.counts) if each.proposal else 1)
        for each in scheduled
        if each.batch.paged
    ]
    return any(lacking)


def _preempt_youngest(schedulers: Sequence[Scheduler], pools: Container[int]) -> bool:
    """Have the request wait again that came in last, of those with pages of pools that lack some.

    False where there is one alone, which has all there are.
    """
    turns = [(*turn, each) for each in schedulers for turn in each.preemptible(pools)]
    if len(turns) > 1:
        _, request, scheduler = max(turns, key=lambda turn: turn[0])
        scheduler.preempt(request)
    return len(turns) > 1
