"""Whether the constraints of requests compile, tried in a process that may be killed.

A stranger's schema may take a library any time, any memory, and its stack: the decode process
compiles what has been tried here. What is known is kept, and several requests may wait for one.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Hashable

from ...extras import require
from ...runtime.constraints.spec import Constraint
from ..protocol import errors
from ..worker.checks import TryConstraint
from .check_queue import Checks

WAITING = 16  # constraints that are tried or wait for it; a request beyond is answered with 429
KNOWN = 1024  # whose outcome is kept


class ConstraintChecks:
    """Tries constraints in the process of checks, each once."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._known: OrderedDict[Constraint, asyncio.Task[None]] = OrderedDict()
        self._waiting: Counter[Constraint] = Counter()

    async def check(self, constraint: Constraint, client: Hashable = None) -> None:
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
            trial = self._checks.run(TryConstraint(constraint), client)
            self._known[constraint] = asyncio.ensure_future(trial)
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(constraint)
        trying = self._known[constraint]
        self._waiting[constraint] += 1
        try:
            await asyncio.shield(trying)  # others may wait for the same
        finally:
            self._waiting[constraint] -= 1
            if not self._waiting[constraint]:
                del self._waiting[constraint]
                if not trying.done():  # nobody wants to know any more
                    trying.cancel()
                    self._known.pop(constraint, None)
