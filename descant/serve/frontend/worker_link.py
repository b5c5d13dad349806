"""The link to the decode process: start it, send it commands, receive its updates, stop it.

A thread receives the updates and hands each to the event loop; all else runs in the event loop.
This process holds no model.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import multiprocessing
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from multiprocessing import resource_tracker
from threading import Lock, Thread
from typing import Any

from ...models import ModelError
from ..protocol import messages
from ..protocol.errors import server_error
from ..worker.loop import run_worker
from .metrics import Metrics
from .streams import Stream

GRACE = 5.0  # seconds for the last step, before the process is killed
START_METHOD = "spawn"  # a fork would share torch's threads
_log = logging.getLogger("descant.serve")


class Failures:
    """Failed steps that ended some requests, or none, while the others went on."""

    def __init__(self) -> None:
        self.count, self._last_id, self._last_time = 0, "", 0.0

    def add(self, error: Exception) -> None:
        """Count a failure, and log it with its trace."""
        self.count, self._last_time = self.count + 1, time.time()
        self._last_id = error.id if isinstance(error, messages.InternalError) else uuid.uuid4().hex
        _log.error("a step has failed, id %s; the other rows go on", self._last_id, exc_info=error)

    def health(self) -> dict[str, Any]:
        """What ``/health`` says."""
        if not self.count:
            return {"status": "ok"}
        at = datetime.fromtimestamp(self._last_time, UTC).isoformat(timespec="seconds")
        last = {"id": self._last_id, "time": at}
        return {"status": "degraded", "failures": self.count, "last_failure": last}


class WorkerLink:
    """The decode process of a server.

    Args:
        metrics: count the tokens and times of its steps.

    Attributes:
        failure: how the process ended, where no ``stop`` ended it; None while all is well.
        failure_id: of that end, in the log and for clients.
        process: the process, once it is started.
        failures: of single steps, after which the process went on.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._numbers = count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, Stream] = {}
        self._send_lock = Lock()
        self._ready = self._stopped = False
        self._connection: Any = None
        self.failure: str | None = None
        self.failure_id = uuid.uuid4().hex
        self.process: Any = None
        self.failures = Failures()

    def start(self, start: messages.Start) -> messages.Started:
        """Start the process; returns its reply when it has compiled its formulas.

        Raises:
            FormulaError, ModelError: a formula cannot be compiled, or a model not loaded.
        """
        context: Any = multiprocessing.get_context(START_METHOD)
        self._connection, child_end = context.Pipe()
        self.process = context.Process(target=run_worker, args=(child_end,), name="descant-decode")
        atexit.register(self.stop)  # else multiprocessing joins it without a timeout
        with sigint_blocked():
            self.process.start()
        child_end.close()
        self.send(start)
        try:
            reply: messages.Started | messages.Failed = self._connection.recv()
        except (EOFError, OSError):
            problem = f"the decode process {self._join()} before it was ready"
            cure = "if it was killed, there may be too little memory for the weights"
            raise ModelError(problem, cure, topic="memory") from None
        if isinstance(reply, messages.Failed):
            raise reply.error
        self._ready = True
        return reply

    def listen(self) -> None:
        """Receive the updates in the running event loop."""
        args = (asyncio.get_running_loop(),)
        Thread(target=self._receive, args=args, name="descant-link", daemon=True).start()

    def stop(self) -> None:
        """Stop the process and join it."""
        atexit.unregister(self.stop)
        if self._stopped or self.process is None or self.process.pid is None:
            return
        self._stopped = True
        if self._ready:
            self.send(messages.Stop())
            self.process.join(GRACE)
        self.process.kill()
        self.process.join()

    def send(self, command: messages.Command, number: int | None = None) -> None:
        """Send a command, with a number that no other has: a new one where no reply is awaited."""
        try:
            with self._send_lock:
                self._connection.send((number or next(self._numbers), command))
        except OSError:  # the process has ended; _receive reports it
            _log.debug("the decode process is gone: %s is not sent", type(command).__name__)

    async def call(self, command: messages.Command, number: int | None = None) -> Any:
        """Send a command and await its reply.

        Raises:
            DescantError, InternalError: the command has failed.
            ApiError: the process has ended.
        """
        if self.failure is not None:
            raise server_error(self.failure_id)
        number = number or next(self._numbers)
        future = self._replies[number] = asyncio.get_running_loop().create_future()
        self.send(command, number)
        try:
            return await future
        except asyncio.CancelledError:
            self.send(messages.Cancel(number))
            raise
        finally:
            del self._replies[number]

    async def submit(self, stream: Stream, command: messages.Submit) -> None:
        """Queue the rows of a request; the stream gets their updates.

        Raises:
            DescantError, InternalError: the rows cannot be queued.
            ApiError: the process has ended.
        """
        stream.number = next(self._numbers)
        self._streams[stream.number] = stream
        queued: messages.Queued = await self.call(command, stream.number)
        stream.rows = stream.running = queued.rows
        stream.prompt_tokens = queued.prompt_tokens
        stream.chat = queued.chat or stream.chat
        self._metrics.prompt_tokens.inc(queued.prompt_tokens)

    def close(self, stream: Stream) -> None:
        """Drop a stream, and abort the rows that have not ended."""
        if self._streams.pop(stream.number, None) is not None and stream.running:
            self.send(messages.Cancel(stream.number))

    def abort_all(self, error: Exception) -> None:
        """End every request with an error."""
        for future in self._replies.values():
            if not future.done():
                future.set_exception(error)
        for stream in self._streams.values():
            stream.queue.put_nowait(error)

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the event loop is closed
            with suppress(EOFError, OSError):
                while True:
                    loop.call_soon_threadsafe(self._dispatch, self._connection.recv())
            loop.call_soon_threadsafe(self._fail, self._join())

    def _dispatch(self, update: messages.StepUpdate) -> None:
        for number, reply in update.replies:
            future = self._replies.get(number)
            if future is None or future.done():
                continue
            if isinstance(reply, messages.Failed):
                future.set_exception(reply.error)
            else:
                future.set_result(reply)
        for number, row in update.rows:
            if (stream := self._streams.get(number)) is not None:
                stream.queue.put_nowait(row)
        self._metrics.count(update.counts)
        for error in update.failures:
            self.failures.add(error)

    def _fail(self, how: str) -> None:
        if self._stopped:
            return
        self.failure = how
        _log.error("the decode process %s, id %s", how, self.failure_id)
        self.abort_all(server_error(self.failure_id))

    def _join(self) -> str:
        """Join the process, and say how it ended."""
        self.process.join(GRACE)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        return f"was ended by {signal.Signals(-code).name}"


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Block SIGINT while spawning the child, which inherits the mask."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # else spawning starts it, and it unblocks SIGINT
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
