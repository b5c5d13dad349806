"""The decode process: the only one that holds the Service, and so the models.

Before every step it reads all waiting commands, so that rows join and leave, and advances one job.
It has no HTTP and no event loop, and ends with its parent.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from operator import sub
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from ...errors import ArgumentError, DescantError
from ...failures import out_of_memory, summary
from ...grammar import FormulaError
from ...imports import import_words
from ...models import ModelError
from ...runtime.admission import Admission
from ...show.quiet import quiet_imports
from ..protocol import messages
from .chats import are_hidden, marks_of_chat, opened
from .jobs import Job, Jobs
from .pending import PendingRow, check_room, fitting
from .prompts import PromptReads

if TYPE_CHECKING:
    from ...runtime.requests.answer import Answer

COST = 1000  # of a second of a job
GRACE = 1.0  # seconds for the last step after the parent has ended
Commands = SimpleQueue[tuple[int, messages.Command]]


def run_worker(connection: Connection) -> None:
    """Run the decode process, from ``Start`` until ``Stop`` or the end of its parent.

    Args:
        connection: to the parent. SIGINT and SIGTERM are ignored: the parent handles them and
            sends ``Stop`` when its requests have ended.
    """
    quiet_imports()
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    commands: Commands = SimpleQueue()
    Thread(target=_receive, args=(connection, commands), daemon=True).start()
    _, start = commands.get()
    if not isinstance(start, messages.Start):
        return
    with suppress(ConnectionError):  # the parent has ended
        try:
            import_words(start.imports)
            jobs = Jobs(start)
            started = jobs.started()
        except Exception as error:
            connection.send(messages.Failed(portable(error)))
            return
        connection.send(started)
        DecodeLoop(jobs, commands, connection.send).run()


class DecodeLoop:
    """Decodes rows and runs jobs until ``Stop``.

    Args:
        jobs: with the service.
        commands: with their numbers.
        send: gets an update after each step that changes anything.
    """

    def __init__(
        self, jobs: Jobs, commands: Commands, send: Callable[[messages.StepUpdate], None]
    ) -> None:
        self._jobs, self._service = jobs, jobs.service
        self._commands, self._send = commands, send
        self._jobs_line: Admission[Job] = Admission(1)  # by their numbers
        self._prompts = PromptReads(self._service.slots, self._service.max_model_len)
        self._rows: dict[int, PendingRow] = {}  # by the id of a Request
        self._replies: list[tuple[int, Any]] = []
        self._slot_counts = (0, 0)  # waiting and running, as last sent
        self._failures: dict[int, Exception] = {}  # portable, by the ids of what was raised
        self._stopped = False

    def run(self) -> None:
        """Run until ``Stop``."""
        while not self._stopped:
            self.run_once()

    def run_once(self) -> None:
        """Read commands, advance a job, make a step, and send the update."""
        service, counts = self._service, messages.StepCounts()
        self._read_commands()
        if self._stopped:
            return
        if self._jobs_line.waiting:
            self._advance_job()
        if self._prompts.busy:
            self._replies += [
                (
                    number,
                    messages.Failed(portable(reply)) if isinstance(reply, Exception) else reply,
                )
                for number, reply in self._prompts.advance(service.busy)
            ]
        rows = self._step(counts) if service.busy else []
        counts.waiting, counts.running = slots = service.waiting, service.running
        if rows or self._replies or counts.seconds is not None or slots != self._slot_counts:
            failures = [*self._failures.values()]
            self._send(messages.StepUpdate(self._replies, rows, counts, failures))
            self._replies, self._slot_counts, self._failures = [], slots, {}

    def _read_commands(self) -> None:
        """Take all commands; wait for one where there is nothing to decode."""
        busy = self._service.busy or self._jobs_line.waiting or self._prompts.busy
        idle = not busy
        while True:
            try:
                number, command = self._commands.get(block=idle)
            except Empty:
                return
            idle = False
            match command:
                case messages.Stop():
                    self._stopped = True
                case messages.Cancel():
                    self._cancel(command.number)
                case messages.ReadPrompts():
                    self._prompts.add(number, command, self._jobs.formulas[command.formula])
                case messages.Submit():
                    if (job := self._jobs.compiling(command)) is None:
                        self._replies.append((number, self._submit(number, command)))
                    else:
                        job = self._submit_after(job, number, command)
                        self._jobs_line.add(number, job, 1, command.client, number)
                case _:
                    client = getattr(command, "client", None)
                    self._jobs_line.add(number, self._jobs.job(command), 1, client, number)

    def _submit_after(self, job: Job, number: int, command: messages.Submit) -> Job:
        """Queue rows when a job has ended."""
        yield from job
        return self._submit(number, command)

    def _submit(self, number: int, command: messages.Submit) -> messages.Queued | messages.Failed:
        """Queue the rows of a request; the reply."""
        rows: list[PendingRow] = []
        tokens, marks = 0, None
        try:
            decoder = self._jobs.formulas[command.formula]
            if decoder.tokenizer is None:
                raise ArgumentError("the formula's models have no tokenizer")
            bound = decoder.session.bound
            if command.chat is not None:
                marks = marks_of_chat(bound, command.chat)
                if are_hidden(bound, marks):
                    shown = {**command.arguments, "skip_special_tokens": False}
                    command = replace(command, arguments=shown)
            for prompt in command.prompts:
                arguments = fitting(command, decoder, prompt)
                requests = self._service.submit(
                    decoder, prompt, client=command.client, call=number, **arguments
                )
                for request in requests:
                    first = request is requests[0]
                    rows.append(PendingRow(request, number, command, len(rows), first))
                if bound.thoughts is not None and marks is not None and marks.thought is not None:
                    state = opened(bound, request)
                    marks = replace(marks, opened=state >= bound.thoughts.inside)
                    for row in rows[-len(requests) :]:
                        row.thoughts, row.thought_state = bound.thoughts, state
                check_room(request, command.arguments.get("max_new_tokens", 0))
                tokens += len(request.prompts[request.longest_term])
        except Exception as error:
            for row in rows:
                self._service.cancel(row.request)
            return messages.Failed(portable(error))
        self._rows |= {id(row.request): row for row in rows}
        return messages.Queued(len(rows), tokens, marks)

    def _cancel(self, number: int) -> None:
        for row in [row for row in self._rows.values() if row.command == number]:
            del self._rows[id(row.request)]
            self._service.cancel(row.request)
        if (entry := self._jobs_line.waiting.get(number)) is not None:
            entry.item.close()
            self._jobs_line.remove(number)
        self._prompts.cancel(number)

    def _advance_job(self) -> None:
        """Advance the job of the client whose jobs have taken the least time."""
        [(number, entry)] = self._jobs_line.joining(1)
        self._jobs_line.start(number)
        start = time.perf_counter()
        try:
            next(entry.item)
        except StopIteration as end:
            self._replies.append((number, end.value))
        except Exception as error:
            self._replies.append((number, messages.Failed(portable(error))))
        else:
            cost = COST * (time.perf_counter() - start)
            self._jobs_line.charge(entry.client, entry.call, cost)
            self._jobs_line.wait(number)
            return
        self._jobs_line.remove(number)

    def _step(self, counts: messages.StepCounts) -> list[tuple[int, messages.RowUpdate]]:
        start, before = time.perf_counter(), self._service.prefix_cache_counts()
        preempted, drafted = self._service.preempted, self._service.draft_counts()
        answers = self._service.step()
        self._failures = {id(error): portable(error) for error in self._service.failures}
        now = time.perf_counter()
        counts.seconds = now - start
        after = self._service.prefix_cache_counts()
        counts.prefix_cache_queries, counts.prefix_cache_hits = map(sub, after, before)
        counts.preempted = self._service.preempted - preempted
        rounds, tokens, accepted = map(sub, self._service.draft_counts(), drafted)
        counts.spec_decode = rounds, tokens, accepted
        updates = []
        for answer in answers:
            if (row := self._rows.get(id(answer.request))) is None:
                continue
            row.count(answer, now, counts)
            if update := self._update(row, answer):
                updates.append((row.command, update))
            if answer.finish_reason:
                del self._rows[id(answer.request)]
        return updates

    def _update(self, row: PendingRow, answer: Answer) -> messages.RowUpdate | None:
        """What a row has gained; a row whose tokens cannot be told ends here."""
        if answer.error is None:
            try:
                return row.update(answer)
            except Exception as raised:
                self._failures[id(raised)] = portable(raised)
                self._service.cancel(answer.request)
                answer.fail(raised)
        error = answer.error
        assert error is not None
        known = self._failures.get(id(error)) or portable(error)
        return messages.RowUpdate(row.number, "", [], finish_reason="error", error=known)


def portable(error: Exception) -> Exception:
    """An error that pickles and can be raised in the other process, with its message.

    What is no message for a user is an ``InternalError`` with its trace.
    """
    if isinstance(error, (FormulaError, ModelError)):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    if isinstance(error, DescantError):
        return ArgumentError(str(error))
    if (memory := out_of_memory(error)) is not None:
        return memory
    trace = "".join(traceback.format_exception(error))
    return messages.InternalError(summary(error), uuid.uuid4().hex, trace)


def _receive(connection: Connection, commands: Commands) -> None:
    """Queue the commands as they come; end this process where the parent has ended."""
    with suppress(EOFError, OSError):
        while True:
            commands.put(connection.recv())
    commands.put((0, messages.Stop()))
    time.sleep(GRACE)
    os._exit(1)
