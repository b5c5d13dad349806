"""Checks, outside of the event loop: two processes that may be killed, and who comes next in each.

Clients take turns, by the seconds that their checks have taken. What is short does not wait behind
what is long. A check that is abandoned is let go, or ended where it runs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import forkserver
from typing import Any

from ...errors import StateError
from ...imports import imported
from ...runtime.admission import Admission
from ..protocol import errors
from ..worker.check_process import Failure, run_checks
from ..worker.checks import SHORT, Check, EncodePrompts
from .worker_link import sigint_blocked

SLOW = 0.25  # seconds of a short check, after which its client's next ones wait with the long
WAITING = 256  # checks that may wait; a request beyond is answered with 429
WALL = 5.0  # times its seconds, where the process has been waiting for a processor, too
START = 60.0  # seconds for a process to be ready
COST = 1000  # of a second


class Checks:
    """The processes of checks of a server."""

    def __init__(self) -> None:
        self.short, self.long = CheckQueue("descant-prompts"), CheckQueue("descant-checks", 10)
        self._slow: set[Hashable] = set()  # clients whose last short check was slow

    def start(self) -> None:
        """Start the processes, so that no request waits for that."""
        if _context().get_start_method() == "forkserver":
            with sigint_blocked():
                forkserver.ensure_running()  # by this thread, whose child it is
        self.short.start()
        self.long.start()

    async def run(self, check: Check, client: Hashable = None) -> Any:
        """The result of a check; short prompts do not wait for others."""
        is_short = isinstance(check, EncodePrompts) and check.size <= SHORT
        queue = self.short if is_short and client not in self._slow else self.long
        try:
            return await queue.run(check, client)
        finally:
            if is_short and client in queue.slow:
                self._slow.add(client)
            elif is_short:
                self._slow.discard(client)
            if len(self._slow) > WAITING:
                self._slow.clear()

    def stop(self) -> None:
        """End the processes."""
        self.short.stop()
        self.long.stop()


def _context() -> Any:
    """What starts processes: a server that has imported what they need, where there is one."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(["descant.serve.worker.check_imports"])
    return context


class CheckQueue:
    """Does checks one at a time, in a process that is started when the first one comes.

    Args:
        name: of the process.
        nice: of the process, where processors are few.

    Attributes:
        process: that does them; None where there is none.
        slow: clients that are here whose last check was slow.
    """

    def __init__(self, name: str, nice: int = 0) -> None:
        self._name, self._nice = name, nice
        self._thread = ThreadPoolExecutor(1, name)
        self._line: Admission[tuple[Check, asyncio.Future[Any]]] = Admission(1)
        self._doing: asyncio.Task[None] | None = None
        self.slow: set[Hashable] = set()
        self._stopped = False
        self._abandoned: int | None = None  # the check that the process was ended for
        self._sent: set[int] = set()  # parts that the process has
        self._connection: Any = None
        self.process: Any = None

    def start(self) -> None:
        """Start the process; nobody waits for it here."""
        self._thread.submit(self._started)

    async def run(self, check: Check, client: Hashable = None) -> Any:
        """The result of a check.

        Raises:
            Exception: what the check raises, or says of one that takes too much.
            ApiError: too many others wait.
        """
        if len(self._line.waiting) >= WAITING:
            problem = f"{WAITING} checks wait; try again in a second"
            raise errors.ApiError(429, problem, None, "queue_full", {"retry-after": "1"})
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._line.add(id(future), (check, future), 1, client, None)
        self._next()
        try:
            return await future
        finally:
            if id(future) in self._line.waiting:
                self._line.remove(id(future))
            elif id(future) in self._line.running and self.process is not None:
                self._abandoned = id(future)
                self.process.kill()  # whoever waits for the process notices

    def _next(self) -> None:
        """Begin the next check, unless one is under way."""
        if self._line.running:
            return
        for key, entry in self._line.joining(1):
            self._line.start(key)
            self._doing = asyncio.ensure_future(self._do(key, *entry.item, entry.client))

    async def _do(
        self, key: int, check: Check, future: asyncio.Future[Any], client: Hashable
    ) -> None:
        start, loop = time.perf_counter(), asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, self._answer, key, check)
            if not future.done():
                future.set_result(result)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        finally:
            seconds = time.perf_counter() - start
            if len(self.slow) > WAITING:
                self.slow.clear()
            (self.slow.add if seconds > SLOW else self.slow.discard)(client)
            self._line.charge(client, None, COST * seconds)
            self._line.remove(key)
            self._next()

    def _answer(self, key: int, check: Check) -> Any:
        """The result of a check; where the process was ended for the one before, of another."""
        self._started()
        try:
            new = {n: part for n, part in check.parts.items() if n not in self._sent}
            self._connection.send((new, check))
            self._sent.update(new)
            if not self._connection.poll(WALL * check.seconds):
                raise TimeoutError
            reply = self._connection.recv()
        except (EOFError, OSError):  # also TimeoutError
            self._end()
            if self._abandoned not in (None, key):
                self._abandoned = None
                return self._answer(key, check)
            self._abandoned = None
            raise check.too_much() from None
        if isinstance(reply, Failure):
            raise reply.error
        return reply

    def _started(self) -> None:
        if self.process is not None:
            return
        context = _context()
        self._connection, child_end = context.Pipe()
        process = context.Process(
            target=run_checks,
            args=(child_end, self._nice, imported()),
            name=self._name,
            daemon=True,
        )
        with sigint_blocked():
            process.start()
        self.process, self._sent = process, set()
        child_end.close()
        ready = False
        with suppress(EOFError, OSError):
            ready = self._connection.poll(START) and self._connection.recv() == ""
        if not ready:
            self._end()
            raise StateError(f"the process {self._name} did not start")

    def stop(self) -> None:
        """End the process."""
        process = self.process
        if process is not None:
            process.kill()
        if not self._stopped:
            self._stopped = True
            self._thread.submit(self._end)
            self._thread.shutdown()

    def _end(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.join()
            self._connection.close()
