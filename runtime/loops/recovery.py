"""After a step that failed: which requests it fails for, and everybody else where they were.

The caches are dropped, and requests are read again with what they have drawn so far. Noise is a
function of (seed, step, token), so that whoever goes on draws the tokens that it would have drawn.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ..requests.answer import Answer
from ..requests.request import Request
from .scheduler import Progress, Scheduler

Entry: TypeAlias = tuple[Scheduler, Request]


@dataclass
class Recovery:
    """Finds the requests that a step fails for, by taking the step without some of them.

    All of them are tried once more, for a failure that was a chance; then without the newest; then
    by halves. Whoever takes the step has taken it.

    Args:
        empty: takes all requests out of all schedulers, and gives each an empty batch; returns how
            far each request has come, by its id.
        draw: takes a step, and adds its answers to a list.
        answers: that got a token, ended or failed meanwhile, by the ids of their requests.

    Attributes:
        errors: one for each request that failed.
    """

    empty: Callable[[], Mapping[int, Progress]]
    draw: Callable[[list[Answer]], None]
    answers: dict[int, Answer]
    errors: list[Exception] = field(default_factory=list)
    _progress: dict[int, Progress] = field(default_factory=dict)

    def run(self, entries: Sequence[Entry], witness: Entry | None) -> None:
        """Go on with all entries that can; the others fail, each with its error.

        Args:
            entries: whoever has slots, or is getting them; the newest last.
            witness: one that has drawn a token before; None where none has.

        Raises:
            Exception: the step fails for each of them alone, and for the witness: it is no
                request's fault.
        """
        entries = [entry for entry in entries if not self._ended(entry[1])]
        if (error := self._attempt(entries)) is None:
            return
        failed, able = self._parted(entries, error)
        if not failed:  # each can, and all of them together cannot: the newest is too much
            failed = [(entries[-1], error)]
            able = able - {id(entries[-1][1])}
        if not able and not self._works(len(entries), witness):
            raise error
        self._take_out()  # so that all that they have drawn is known
        for entry, own in failed:
            self._fail(*entry, own)
        self.run([entry for entry in entries if id(entry[1]) in able], witness)

    def _parted(
        self, entries: Sequence[Entry], error: Exception
    ) -> tuple[list[tuple[Entry, Exception]], set[int]]:
        """The entries that fail alone, and the ids of the requests of those that do not."""
        if len(entries) == 1:
            return [(entries[0], error)], set()
        failed, able = list[tuple[Entry, Exception]](), set[int]()
        parts = [entries[:-1], entries[-1:]]
        while parts:
            part = parts.pop(0)
            own = self._attempt(part)
            if own is None:
                able |= {id(request) for _, request in part}
            elif len(part) == 1:
                failed.append((part[0], own))
            else:
                parts[:0] = [part[: len(part) // 2], part[len(part) // 2 :]]
        return failed, able

    def _attempt(self, entries: Sequence[Entry]) -> Exception | None:
        """Take a step with these alone, each from where it was; what it raises."""
        self._take_out()
        updated: list[Answer] = []
        try:
            self._let_in(entries)
            self.draw(updated)
            while any(scheduler.behind for scheduler, _ in entries):
                self.draw(updated)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold what the step has allocated
            return error
        finally:
            self.answers |= {id(answer.request): answer for answer in updated}
        return None

    def _take_out(self) -> None:
        """Leave every batch empty, and note how far each request has come."""
        for key, progress in self.empty().items():
            before = self._progress.get(key, 0)
            if isinstance(progress, int) and isinstance(before, int):
                progress = max(progress, before)  # it may have begun again, for nothing
            self._progress[key] = progress
            if isinstance(progress, Answer) and progress.finish_reason != "cancelled":
                self.answers[key] = progress  # also where the step failed after it had its token

    def _let_in(self, entries: Sequence[Entry]) -> None:
        for scheduler in dict.fromkeys(scheduler for scheduler, _ in entries):
            own = [request for each, request in entries if each is scheduler]
            scheduler.resume([each for each in own if not self._ended(each)], self._progress)

    def _ended(self, request: Request) -> bool:
        answer = self.answers.get(id(request))
        return answer is not None and answer.finish_reason is not None

    def _works(self, failed: int, witness: Entry | None) -> bool:
        """Whether the step works for anybody; one failure alone says nothing about that."""
        if witness is None:
            return failed == 1
        scheduler, request = witness
        copy = replace(request)
        error = self._attempt([(scheduler, copy)])
        self._take_out()
        self.answers.pop(id(copy), None)
        self._progress.pop(id(copy), None)
        return error is None

    def _fail(self, scheduler: Scheduler, request: Request, error: Exception) -> None:
        answer = scheduler.answer(request, self._progress)
        answer.fail(error)
        self.answers[id(request)] = answer
        self.errors.append(error)
