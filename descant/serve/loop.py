"""The decode thread: the only one that touches the Service, and so the models.

Others leave it work. Commands (submit, cancel) are taken before every step, all of them; jobs
(compile, score, inspect) one between two steps, so that rows in flight go on. What it has to tell
goes back to the event loop, once per step.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import broken
from .metrics import Meters
from .rows import Row, check_room, fitting, prompt_tokens
from .streams import Stream, Told

if TYPE_CHECKING:
    from ..runtime import Served, Service

_log = logging.getLogger("descant.serve")
T = TypeVar("T")
Work = Callable[["Service"], T]


class Loop:
    """Decodes what it is given, in a thread of its own.

    Args:
        make: makes the Service, in that thread.
        meters: are told of tokens and times.

    Attributes:
        failure: what ended the thread; None while all is well.
    """

    def __init__(self, make: Callable[[], Service], meters: Meters) -> None:
        self._make, self._meters = make, meters
        self._commands: SimpleQueue[tuple[Future[Any], Work[Any]] | None] = SimpleQueue()
        self._jobs: deque[tuple[Future[Any], Work[Any]]] = deque()
        self._rows: dict[int, Row] = {}  # by the id of a Request
        self._ready: Future[None] = Future()
        self._stopping = False
        self.failure: BaseException | None = None
        self._thread = Thread(target=self._run, name="descant-decode", daemon=True)

    def start(self) -> None:
        """Start, and return when there is a Service.

        Raises:
            ModelError: as making it does.
        """
        self._thread.start()
        self._ready.result()

    def stop(self) -> None:
        """Let the thread end after its step, and wait for it."""
        self._stopping = True
        self._commands.put(None)
        self._thread.join()

    def call(self, job: Work[T]) -> Future[T]:
        """Run a job between two steps."""
        future: Future[T] = Future()
        if self.failure is not None:
            future.set_exception(broken())
            return future
        self._jobs.append((future, job))
        self._commands.put(None)  # so that it is woken
        return future

    def submit(
        self,
        stream: Stream,
        decoder: Served,
        prompts: Sequence[Any],
        arguments: dict[str, Any],
        most: int,
    ) -> Future[None]:
        """Queue a request's rows: ``stream.requests``, and its ``prompt_tokens``.

        Args:
            stream: is told of them.
            decoder: of the request's formula.
            prompts: each gets as many rows as are asked for.
            arguments: those of ``generate``; without ``max_new_tokens``, as many as fit.
            most: of these.

        Raises:
            FormulaError, ModelError, ValueError: through the future; nothing is queued then.
        """

        def work(service: Service) -> None:
            found: list[Any] = []
            try:
                for prompt in prompts:
                    asked = fitting(decoder, prompt, arguments, most)
                    found += service.submit(decoder, prompt, **asked)
                    check_room(found[-1], arguments)
            except BaseException:
                for request in found:
                    service.cancel(request)
                raise
            each = len(found) // len(prompts)
            stream.prompt_tokens = sum(prompt_tokens(one) for one in found[::each])
            self._meters.prompt_tokens.inc(stream.prompt_tokens)
            stream.requests = found
            for number, request in enumerate(found):
                self._rows[id(request)] = Row(stream, number, decoder.tokenizer)

        return self._command(work)

    def cancel(self, stream: Stream) -> None:
        """Let go of what has not ended of a request."""

        def work(service: Service) -> None:
            for request in stream.requests:
                if self._rows.pop(id(request), None) is not None:
                    service.cancel(request)

        self._command(work)

    def abandon(self, error: BaseException) -> Future[None]:
        """End every request with an error."""

        def work(service: Service) -> None:
            for row in [*self._rows.values()]:
                for request in row.stream.requests:
                    if self._rows.pop(id(request), None) is not None:
                        service.cancel(request)
                _tell([(row.stream, error)])

        return self._command(work)

    def _command(self, work: Work[T]) -> Future[T]:
        future: Future[T] = Future()
        if self.failure is not None:
            future.set_exception(broken())
        else:
            self._commands.put((future, work))
        return future

    def _run(self) -> None:
        try:
            service = self._make()
        except BaseException as error:
            self._ready.set_exception(error)
            return
        self._ready.set_result(None)
        try:
            while not self._stopping:
                self._obey(service)
                if self._jobs:
                    _do(self._jobs.popleft(), service)
                if service.busy:
                    self._step(service)
                self._meters.waiting.set(service.waiting)
                self._meters.in_use.set(service.in_flight)
        except BaseException as error:
            _log.exception("the decode thread failed")
            self._fail(error)

    def _obey(self, service: Service) -> None:
        """Do what was commanded; wait for it where there is nothing else to do."""
        idle = not (service.busy or self._jobs)
        while not self._stopping:
            try:
                command = self._commands.get(block=idle)
            except Empty:
                return
            idle = False
            if command is not None:
                _do(command, service)

    def _step(self, service: Service) -> None:
        start = time.perf_counter()
        answers = service.step()
        now = time.perf_counter()
        self._meters.step.observe(now - start)
        told: list[tuple[Stream, Told | BaseException]] = []
        for answer in answers:
            row = self._rows.get(id(answer.request))
            if row is None:
                continue
            row.measure(answer, now, self._meters)
            if answer.finish_reason:
                del self._rows[id(answer.request)]
            if piece := row.piece(answer):
                told.append((row.stream, piece))
        _tell(told)

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        streams = {id(row.stream): row.stream for row in self._rows.values()}
        _tell([(stream, broken()) for stream in streams.values()])
        self._rows.clear()
        left = [*self._jobs]
        while not self._commands.empty():
            if (command := self._commands.get()) is not None:
                left.append(command)
        for future, _ in left:
            if future.set_running_or_notify_cancel():
                future.set_exception(broken())


def _do(work: tuple[Future[Any], Work[Any]], service: Service) -> None:
    future, call = work
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call(service))
    except Exception as error:
        future.set_exception(error)


def _tell(told: Sequence[tuple[Stream, Told | BaseException]]) -> None:
    """Hand pieces to the event loop that waits for them."""
    if not told:
        return

    def put() -> None:
        for stream, piece in told:
            stream.put(piece)

    try:
        told[0][0].loop.call_soon_threadsafe(put)
    except RuntimeError:  # the event loop has ended, and nobody waits
        _log.debug("nobody waits for %d pieces", len(told))
