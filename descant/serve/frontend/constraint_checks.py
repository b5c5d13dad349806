"""Whether the constraints of requests compile, tried in a process that may be killed.

A stranger's schema may take a library any time, any memory, and its stack: the decode process
compiles what has been tried here, and no request waits for another's but in this queue.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from ...errors import DescantError, StateError
from ...extras import require
from ...runtime.constraints.limits import SECONDS, ConstraintError
from ...runtime.constraints.spec import Constraint
from ..protocol import errors
from ..worker.constraint_trial import run_trials
from .worker_link import sigint_blocked

WAITING = 16  # constraints that are tried or wait for it; a request beyond is answered with 429
KNOWN = 1024  # whose outcome is kept
WALL = 5 * SECONDS  # where the process has been waiting for a processor, too
START = 60.0  # seconds for the process to be ready


class ConstraintChecks:
    """Tries constraints one at a time, in a process that is started when the first one comes."""

    def __init__(self) -> None:
        self._known: OrderedDict[Constraint, asyncio.Future[None]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "descant-constraints")
        self._process: Any = None
        self._connection: Any = None

    async def check(self, constraint: Constraint) -> None:
        """Return when a constraint is known to compile within the limits.

        Raises:
            ConstraintError: it does not.
            ApiError: too many others wait.
        """
        require("a constraint", "llguidance")
        if constraint not in self._known:
            if sum(not outcome.done() for outcome in self._known.values()) >= WAITING:
                problem = f"{WAITING} constraints are being compiled; try again in a second"
                raise errors.ApiError(429, problem, None, "queue_full", {"retry-after": "1"})
            loop = asyncio.get_running_loop()
            outcome = loop.run_in_executor(self._thread, self._try, constraint)
            self._known[constraint] = outcome
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(constraint)
        await asyncio.shield(self._known[constraint])  # others may wait for the same

    def stop(self) -> None:
        """End the process."""
        self._kill()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _try(self, constraint: Constraint) -> None:
        if self._process is None:
            self._start()
        reply: DescantError | None
        try:
            self._connection.send(constraint)
            if not self._connection.poll(WALL):
                raise TimeoutError
            reply = self._connection.recv()
        except (EOFError, OSError):  # also TimeoutError
            self._kill()
            problem = f"the {constraint.kind} takes too long, or too much memory, to compile"
            raise ConstraintError(f"{problem}; make it smaller") from None
        if reply is not None:
            raise reply

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share uvicorn's threads
        self._connection, child_end = context.Pipe()
        self._process = context.Process(
            target=run_trials, args=(child_end,), name="descant-constraints", daemon=True
        )
        with sigint_blocked():
            self._process.start()
        child_end.close()
        ready = False
        with suppress(EOFError, OSError):
            ready = self._connection.poll(START) and self._connection.recv() == ""
        if not ready:
            self._kill()
            raise StateError("the process that compiles constraints did not start")

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join()
            self._connection.close()
