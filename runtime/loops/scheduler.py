"""The scheduler: requests of one plan that wait, that have slots, and whose step is pending.

Three beats per step: schedule, run, postprocess. Whoever drives it may add and drop requests
between two steps, and drive several schedulers together.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from ..batch.batch import Batch
from ..batch.rewrite import Rewrite, rewrite
from ..engine.engine import Engine, PendingStep, ScheduledBatch, launch
from ..requests.answer import Answer, answer_to
from ..requests.request import Request

# How far a request has come: its answer; of a search, which begins again, the steps it has taken.
Progress: TypeAlias = Answer | int


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
        """Slots that a request takes."""
        return 1

    def admit(self, free: int) -> int:
        """Let waiting requests in, in their order; how many of so many free slots they take."""
        room = min(free, self.batch.room)
        joining = [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
        if joining:
            self.batch.admit(joining)
        return len(joining)

    def read(self, most: float | None = None) -> int:
        """Read prompts of the requests that were let in, as ``Batch.read``."""
        read = self.batch.read(most)
        if self.batch.arriving is None:
            now, joined = time.perf_counter(), self.batch.requests[len(self._answers) :]
            for request in joined:
                self._answers.append(answer_to(request, self._engine.bound, now))
                if any(dropped is request for dropped in self._dropped):
                    self._answers[-1].finish_reason = "cancelled"
            self._dropped.clear()
            self._leave()
        return read

    def schedule(self) -> ScheduledBatch | None:
        """The rows that take the next step; None where there are none."""
        return ScheduledBatch(self._engine, self.batch, self._answers) if self._answers else None

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
        tokens, errors = self._engine.collect(pending)
        logprobs, updated = self.batch.logprobs_drawn, []
        for slot in dict.fromkeys((*errors, *range(len(tokens)))):
            answer = pending.answers[slot]
            if answer.finish_reason is None:
                if slot in errors:
                    answer.fail(errors[slot])
                else:
                    if logprobs:
                        answer.logprobs.append(logprobs[slot].logprob)
                        best = logprobs[slot].top[: answer.request.top_logprobs]
                        answer.top_logprobs.append(dict(best))
                    answer.add(tokens[slot])
                updated.append(answer)
        self._leave()
        return updated

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
                return
        known = [*self._answers, *(each for pending in self.pending for each in pending.answers)]
        known = [answer for answer in known if answer.request is request]
        for answer in known:
            answer.finish_reason = "cancelled"
        self._dropped += [] if known else [request]  # its prompt is being read
        self._leave()

    def interrupt(self) -> dict[int, Progress]:
        """Take all requests out after a step that failed; how far each came, by its id.

        Those whose prompts were being read are left out. The batch is not to be used any more.
        """
        progress: dict[int, Progress] = {id(answer.request): answer for answer in self._answers}
        self._answers = []
        for queue in (self.waiting, self.pending, self._dropped):
            queue.clear()
        if self.batch.arriving is not None:
            self.batch.arriving.close()
        return progress

    def resume(self, requests: Sequence[Request], progress: Mapping[int, Progress]) -> None:
        """Let requests into an empty batch again, each with what it had drawn."""
        self._read_at_once(requests)
        self._answers = [self.answer(request, progress) for request in self.batch.requests]
        rewrites = {}
        for slot, answer in enumerate(self._answers):
            answer.drawn = len(answer.tokens)
            if answer.tokens:
                rewrites[slot] = Rewrite(answer.tokens, 0, answer.request.key, 0.0)
        rewrite(self.batch, rewrites)

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
        if over:
            self.batch.finish(over, self._answers)


def run(schedulers: Sequence[Scheduler]) -> None:
    """Launch a step of the rows of all schedulers, together."""
    scheduled = {}
    for scheduler in schedulers:
        batch = scheduler.schedule()
        if batch is not None:
            scheduled[scheduler] = batch
    if scheduled:
        for scheduler, pending in zip(scheduled, launch([*scheduled.values()]), strict=True):
            scheduler.pending.append(pending)
