"""The decode process: the only one that touches the Service, and so the models.

It hears messages and says what came of them. Rows come and go before every step, all of them; of
the jobs, one goes on between two steps. It knows nothing of HTTP or of an event loop, and it ends
when nobody is left to hear it.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from ...failures import ours
from ...grammar import FormulaError
from ...models import ModelError
from ..protocol.messages import (
    Cancel,
    Counts,
    Failed,
    Message,
    Queued,
    Ready,
    Said,
    Start,
    Stop,
    Submit,
    Told,
)
from .jobs import Job, Jobs
from .pending import Row, check_room, fitting, prompt_tokens

GRACE = 1.0  # seconds for a step to end in, when nobody is left to hear of it
Commands = SimpleQueue[tuple[int, Message]]


def decode(connection: Connection) -> None:
    """Run the decode process, from ``Start`` until ``Stop`` or the end of its parent.

    Args:
        connection: to the process that talks to clients. Keys and signals that end a server are
            for that one to hear, which lets this one finish.
    """
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    commands: Commands = SimpleQueue()
    Thread(target=_hear, args=(connection, commands), daemon=True).start()
    _, start = commands.get()
    if not isinstance(start, Start):
        return
    try:
        try:
            jobs = _jobs(start)
            ready = Ready(jobs.rewards())
        except Exception as error:
            connection.send(Failed(crossing(error, ours(error))))
            return
        connection.send(ready)
        Loop(jobs, commands, connection.send).run()
    except ConnectionError:  # nobody hears
        return


class Loop:
    """Decodes what it is asked for.

    Args:
        jobs: with the service.
        commands: messages, with their numbers.
        say: is called with what there is to say, after every step at most.
    """

    def __init__(self, jobs: Jobs, commands: Commands, say: Callable[[Said], None]) -> None:
        self._jobs, self._service = jobs, jobs.service
        self._commands, self._say = commands, say
        self._going: deque[tuple[int, Job]] = deque()  # jobs
        self._rows: dict[int, Row] = {}  # by the id of a Request
        self._requests: dict[int, list[Any]] = {}  # by the number of their message
        self._replies: list[tuple[int, Any]] = []
        self._counts = (0, 0)
        self._stopping = False

    def run(self) -> None:
        """Go on until ``Stop``."""
        while not self._stopping:
            self.turn()

    def turn(self) -> None:
        """Obey, let a job go on, make a step, and say what came of it."""
        service, counts = self._service, Counts()
        self._obey()
        if self._stopping:
            return
        if self._going:
            self._work()
        told = self._step(counts) if service.busy else []
        counts.waiting, counts.in_use = service.waiting, service.running
        news = counts.step is not None or self._counts != (counts.waiting, counts.in_use)
        if news or told or self._replies:
            self._say(Said(self._replies, told, counts))
            self._replies, self._counts = [], (counts.waiting, counts.in_use)

    def _obey(self) -> None:
        """Do what was commanded; wait for it where there is nothing else to do."""
        idle = not (self._service.busy or self._going)
        while True:
            try:
                number, message = self._commands.get(block=idle)
            except Empty:
                return
            idle = False
            match message:
                case Stop():
                    self._stopping = True
                case Cancel():
                    self._cancel(message.number)
                case Submit():
                    self._submit(number, message)
                case _:
                    self._going.append((number, self._jobs.job(message)))

    def _submit(self, number: int, said: Submit) -> None:
        found: list[Any] = []
        try:
            decoder = self._jobs.formulas[said.formula]
            if decoder.tokenizer is None:
                raise ValueError("the formula's models have no tokenizer")
            for prompt in said.prompts:
                asked = fitting(decoder, prompt, said.arguments, said.most)
                found += self._service.submit(decoder, prompt, **asked)
                check_room(found[-1], said.arguments)
        except Exception as error:
            for request in found:
                self._service.cancel(request)
            self._replies.append((number, Failed(crossing(error))))
            return
        self._requests[number] = found
        for place, request in enumerate(found):
            row = Row(number, place, said.pieces, said.since, decoder.tokenizer)
            self._rows[id(request)] = row
        read = sum(prompt_tokens(one) for one in found[:: len(found) // len(said.prompts)])
        self._replies.append((number, Queued(len(found), read)))

    def _cancel(self, number: int) -> None:
        for request in self._requests.pop(number, ()):
            if self._rows.pop(id(request), None) is not None:
                self._service.cancel(request)
        self._going = deque(one for one in self._going if one[0] != number)

    def _work(self) -> None:
        number, job = self._going.popleft()
        try:
            next(job)
        except StopIteration as end:
            self._replies.append((number, end.value))
        except Exception as error:
            self._replies.append((number, Failed(crossing(error))))
        else:
            self._going.append((number, job))

    def _step(self, counts: Counts) -> list[tuple[int, Told]]:
        start = time.perf_counter()
        answers = self._service.step()
        now = time.perf_counter()
        counts.step = now - start
        told = []
        for answer in answers:
            row = self._rows.get(id(answer.request))
            if row is None:
                continue
            row.measure(answer, now, counts)
            if piece := row.piece(answer):
                told.append((row.asked, piece))
            if answer.finish_reason:
                self._end(answer.request, row)
        return told

    def _end(self, request: Any, row: Row) -> None:
        del self._rows[id(request)]
        left = [one for one in self._requests[row.asked] if one is not request]
        self._requests[row.asked] = left
        if not left:
            del self._requests[row.asked]


def crossing(error: Exception, said: bool = True) -> Exception:
    """An error that can be raised in another process, with its words, its place and its cure.

    Args:
        error: what was raised.
        said: whether it may be words for a user; else it keeps its traceback, as a note.
    """
    if isinstance(error, (FormulaError, ModelError)):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    if isinstance(error, ValueError) and said:
        return ValueError(str(error))
    found = RuntimeError(f"{type(error).__name__}: {error}")
    found.add_note("".join(traceback.format_exception(error)))
    return found


def _jobs(start: Start) -> Jobs:
    from ...api import where

    jobs = Jobs(start, *where(start.dtype, start.device))
    for formula in start.formulas:
        jobs.compile(formula)
    return jobs


def _hear(connection: Connection, commands: Commands) -> None:
    """Take messages as they come; without a parent there is nothing to stay for."""
    while True:
        try:
            commands.put(connection.recv())
        except (EOFError, OSError):
            break
    commands.put((0, Stop()))
    time.sleep(GRACE)
    os._exit(1)
