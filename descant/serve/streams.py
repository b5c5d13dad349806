"""What goes from the decode thread to one client's request: pieces of answers, row by row."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from .errors import failed_formula, timed_out

if TYPE_CHECKING:
    from ..grammar import FormulaError
    from ..runtime import Request

T = TypeVar("T")


@dataclass(frozen=True)
class Told:
    """A piece of a row's answer: what has become certain since the piece before.

    Attributes:
        row: the number of the row in its request.
        text: without special tokens and without the stop string.
        token_ids: with the EOS where one ended the row.
        logprobs: one per token, where asked for.
        spelled: each token as text, where log-probabilities are asked for.
        finish_reason: None, or why this is the last.
        error: with the finish reason ``error``.
    """

    row: int
    text: str
    token_ids: list[int]
    logprobs: list[float] = field(default_factory=list)
    spelled: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    error: FormulaError | None = None


class Stream:
    """The rows of one request, as its coroutine sees them.

    Args:
        pieces: tell of every step, and not only at the end.
        timeout: seconds that the request may take.

    Attributes:
        since: when it began, on ``time.perf_counter``.
        requests: one per row; written by the decode thread alone, as are ``prompt_tokens``.
    """

    def __init__(self, pieces: bool, timeout: float) -> None:
        self.pieces, self.since = pieces, time.perf_counter()
        self.loop = asyncio.get_running_loop()
        self.timeout, self.deadline = timeout, self.loop.time() + timeout
        self.requests: list[Request] = []
        self.prompt_tokens = 0
        self._told: asyncio.Queue[Told | BaseException] = asyncio.Queue()
        self._alarm = self.loop.call_at(self.deadline, self.put, timed_out(timeout))

    def close(self) -> None:
        """Nobody waits any more."""
        self._alarm.cancel()

    def put(self, told: Told | BaseException) -> None:
        """Take a piece, or what ends the request; in the event loop."""
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
        left = len(self.requests)
        while left:
            told = await self._told.get()
            if isinstance(told, BaseException):
                raise told
            if told.error is not None:
                raise failed_formula(told.error)
            left -= told.finish_reason is not None
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
