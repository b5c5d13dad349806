"""A run: requests on their way through one plan, waiting, in slots, and in flight.

It is the loop around the step, opened, so that whoever drives it may let requests in and take them
out between two steps, and drive several runs in turn.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from ..batch.batch import Batch
from ..engine.engine import Engine, PendingStep, ScheduledBatch, launch
from ..requests.request import Answer, Request


class Scheduler:
    """Requests on their way, each a row that draws a token per step.

    Args:
        engine: whose steps they take.
        batch: their slots, all empty.
    """

    def __init__(self, engine: Engine, batch: Batch) -> None:
        self._engine, self.batch = engine, batch
        self.waiting: deque[Request] = deque()
        self._answers: list[Answer] = []  # one per slot
        self._pending: deque[PendingStep] = deque()
        self._dropped: list[Request] = []  # they leave as soon as they have a slot

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""
        return bool(self.waiting or self.batch.arriving or self._answers or self._pending)

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
        """Read prompts of those that were let in, as ``Batch.read``."""
        read = self.batch.read(most)
        if not self.batch.arriving:
            now, came = time.perf_counter(), self.batch.requests[len(self._answers) :]
            for request in came:
                self._answers.append(Answer(request, self._engine.bound.tokenizer, now))
                if any(one is request for one in self._dropped):
                    self._answers[-1].finish_reason = "cancelled"
            self._dropped.clear()
            self._leave()
        return read

    def scheduled(self) -> ScheduledBatch | None:
        """The rows in slots, which take the next step; None where there are none."""
        return ScheduledBatch(self._engine, self.batch, self._answers) if self._answers else None

    def begun(self, pending_step: PendingStep) -> None:
        """Note that their step is under way."""
        self._pending.append(pending_step)

    def postprocess(self) -> list[Answer]:
        """The answers that got a token, or an error, in the oldest step; those over leave.

        On a GPU a step is under way meanwhile, so that there may be none yet.
        """
        ahead = self._engine.ahead if self._answers else 0
        if len(self._pending) <= ahead:
            return []
        pending_step = self._pending.popleft()
        tokens, errors = self._engine.land(pending_step)
        said = pending_step.batch.likely or [0.0] * len(tokens)
        told = []
        for slot in (*errors, *(set(range(len(tokens))) - errors.keys())):
            answer = pending_step.answers[slot]
            if answer.finish_reason is None:
                if slot in errors:
                    answer.fail(errors[slot])
                else:
                    answer.logprobs.append(said[slot])
                    answer.add(tokens[slot])
                told.append(answer)
        self._leave()
        return told

    def step(self) -> list[Answer]:
        """Everything once, for those who drive one run: the answers that got a token.

        Raises:
            FormulaError: NaN, or every token excluded.
        """
        self.admit(self.batch.room)
        self.read()
        start = time.perf_counter()
        run_all([self])
        told = self.postprocess()
        self._engine.stats.seconds += time.perf_counter() - start
        for answer in told:
            if answer.error is not None:
                raise answer.error
        return told

    def drop(self, request: Request) -> None:
        """Let a request go wherever it is; nothing more is said of it."""
        for place, one in enumerate(self.waiting):
            if one is request:
                del self.waiting[place]
                return
        known = [
            *self._answers,
            *(one for pending_step in self._pending for one in pending_step.answers),
        ]
        if all(answer.request is not request for answer in known):
            self._dropped.append(request)  # its prompt is being read
        for answer in known:
            if answer.request is request:
                answer.finish_reason = "cancelled"
        self._leave()

    def _leave(self) -> None:
        """Free the slots of answers that are over."""
        over = [slot for slot, answer in enumerate(self._answers) if answer.over]
        self.batch.finish(over)
        for slot in reversed(over):
            self._answers[slot] = self._answers[-1]
            self._answers.pop()


def run_all(schedulers: Sequence[Scheduler]) -> None:
    """Begin a step of the rows of all runs, together."""
    scheduled = {scheduler: found for scheduler in schedulers if (found := scheduler.scheduled())}
    for scheduler, pending_step in zip(scheduled, launch([*scheduled.values()]), strict=True):
        scheduler.begun(pending_step)
