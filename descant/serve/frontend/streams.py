"""What goes from the decode process to one client's request: pieces of answers, row by row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from ..protocol.errors import failed_formula, timed_out
from ..protocol.messages import Told

T = TypeVar("T")


class Stream:
    """The rows of one request, as its coroutine sees them.

    Args:
        timeout: seconds that the request may take.

    Attributes:
        since: when it began, on ``time.perf_counter``.
        number: of the message that asks for its rows.
        rows: that are queued.
        left: of them, those that have not ended.
        prompt_tokens: that the rows have read.
    """

    def __init__(self, timeout: float) -> None:
        self.since = time.perf_counter()
        loop = asyncio.get_running_loop()
        self.timeout, self.deadline = timeout, loop.time() + timeout
        self.number = self.rows = self.left = self.prompt_tokens = 0
        self._told: asyncio.Queue[Told | BaseException] = asyncio.Queue()
        self._alarm = loop.call_at(self.deadline, self.put, timed_out(timeout))

    def close(self) -> None:
        """Nobody waits any more."""
        self._alarm.cancel()

    def put(self, told: Told | BaseException) -> None:
        """Take a piece, or what ends the request."""
        self._told.put_nowait(told)

    async def within(self, work: Awaitable[T]) -> T:
        """Await something no longer than the request may take.

        Raises:
            ApiError: the time is up.
        """
        return await within(work, self.deadline, self.timeout)

    async def told(self) -> AsyncIterator[Told]:
        """The pieces of all rows, until every row has ended.

        Raises:
            ApiError: the time is up, a row failed, or the server let go of the request.
        """
        while self.left:
            told = await self._told.get()
            if isinstance(told, BaseException):
                raise told
            if told.error is not None:
                raise failed_formula(told.error)
            self.left -= told.finish_reason is not None
            yield told


async def within(work: Awaitable[T], deadline: float, timeout: float) -> T:
    """Await something until a time of the event loop's clock.

    Raises:
        ApiError: the time is up; it names the ``timeout`` in seconds.
    """
    try:
        async with asyncio.timeout_at(deadline):
            return await work
    except TimeoutError:
        raise timed_out(timeout) from None
