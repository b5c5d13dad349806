"""The decode process as those who talk to clients see it: started, asked, heard, and ended.

A thread hears what it says, and hands that to the event loop, as much at a time as was said at
once; all else happens in the event loop. This process holds no model.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing import resource_tracker
from typing import Any

from ...models import ModelError
from ..protocol.errors import broken
from ..protocol.messages import Cancel, Failed, Message, Queued, Ready, Said, Start, Stop, Submit
from ..worker.loop import decode
from .metrics import Meters
from .streams import Stream

GRACE = 5.0  # seconds for a step to end in, when it is time to go
_log = logging.getLogger("descant.serve")


class Link:
    """The decode process of a server.

    Args:
        meters: are told of tokens and times.

    Attributes:
        failure: how the process ended, where nobody asked it to; None while all is well.
        process: the process itself, once it is started.
    """

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, Stream] = {}
        self._sending = threading.Lock()
        self._ready = self._stopped = False
        self._connection: Any = None
        self.failure: str | None = None
        self.process: Any = None

    def start(self, start: Start) -> Ready:
        """Start the process, and return when it has compiled its formulas.

        Raises:
            FormulaError, ModelError: as compiling them does.
        """
        context = multiprocessing.get_context("spawn")  # a fork would share torch's threads
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=decode, args=(theirs,), name="descant-decode")
        atexit.register(self.stop)  # else multiprocessing waits for it without an end
        with _deaf():
            self.process.start()
        theirs.close()
        self._send(start)
        try:
            found = self._connection.recv()
        except (EOFError, OSError):
            problem = f"the decode process {self._ended()} before it was ready"
            cure = "if it was killed, there may be too little memory for the weights"
            raise ModelError(problem, cure, topic="memory") from None
        if isinstance(found, Failed):
            raise found.error
        assert isinstance(found, Ready)
        self._ready = True
        return found

    def listen(self) -> None:
        """Hear what the process says, in the event loop that runs."""
        hear = (asyncio.get_running_loop(),)
        threading.Thread(target=self._listen, args=hear, name="descant-link", daemon=True).start()

    def stop(self) -> None:
        """End the process, and wait for that."""
        atexit.unregister(self.stop)
        if self._stopped or self.process is None or self.process.pid is None:
            return
        self._stopped = True
        if self._ready:
            self._send(Stop())
            self.process.join(GRACE)
        self.process.kill()  # where it has not ended by itself
        self.process.join()

    async def ask(self, message: Message) -> Any:
        """Send a message and wait for its reply.

        Raises:
            FormulaError, ModelError, ValueError: what was asked for cannot be.
            ApiError: the process has ended.
        """
        return await self._reply(message, next(self._numbers))

    def tell(self, message: Message) -> None:
        """Send a message of which no reply is waited for."""
        self._send(message, next(self._numbers))

    async def submit(self, stream: Stream, message: Submit) -> None:
        """Queue a request's rows, of which the stream is told.

        Raises:
            FormulaError, ModelError, ValueError: nothing is queued then.
            ApiError: the process has ended.
        """
        stream.number = next(self._numbers)
        self._streams[stream.number] = stream
        queued: Queued = await self._reply(message, stream.number)
        stream.rows = stream.left = queued.rows
        stream.prompt_tokens = queued.prompt_tokens
        self._meters.prompt_tokens.inc(queued.prompt_tokens)

    def cancel(self, stream: Stream) -> None:
        """Let go of what has not ended of a request."""
        if self._streams.pop(stream.number, None) is not None and stream.left:
            self.tell(Cancel(stream.number))

    def abandon(self, error: Exception) -> None:
        """End every request with an error."""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        for stream in self._streams.values():
            stream.put(error)

    async def _reply(self, message: Message, number: int) -> Any:
        if self.failure is not None:
            raise broken()
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send(message, number)
        try:
            return await future
        except asyncio.CancelledError:
            self.tell(Cancel(number))
            raise
        finally:
            del self._waiting[number]

    def _send(self, message: Message, number: int = 0) -> None:
        try:
            with self._sending:
                self._connection.send((number, message))
        except OSError:  # it has ended, which is heard too
            _log.debug("nobody hears %s", type(message).__name__)

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while True:
                try:
                    said = self._connection.recv()
                except (EOFError, OSError):
                    break
                loop.call_soon_threadsafe(self._hear, said)
            how = self._ended()
            loop.call_soon_threadsafe(self._fail, how)
        except RuntimeError:  # the event loop has ended, and nobody waits
            return

    def _hear(self, said: Said) -> None:
        for number, reply in said.replies:
            future = self._waiting.get(number)
            if future is None or future.done():
                continue
            if isinstance(reply, Failed):
                future.set_exception(reply.error)
            else:
                future.set_result(reply)
        for number, told in said.told:
            if (stream := self._streams.get(number)) is not None:
                stream.put(told)
        self._meters.count(said.counts)

    def _fail(self, how: str) -> None:
        if self._stopped:
            return
        self.failure = how
        _log.error("the decode process %s", how)
        self.abandon(broken())

    def _ended(self) -> str:
        self.process.join(GRACE)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        return f"was ended by {signal.Signals(-code).name}"


@contextmanager
def _deaf() -> Iterator[None]:
    """Hold Ctrl-C back for a moment: a process that is born in it does not hear any."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would let it through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
