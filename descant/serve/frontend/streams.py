"""The time of a request, and its stream: row updates from the decode process to its coroutine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

from ..protocol.answers import usage
from ..protocol.chats import ChatMarks
from ..protocol.errors import NO_RETRY, ApiError, failed_row
from ..protocol.messages import RowUpdate
from ..protocol.prompt_answers import PromptAnswers

T = TypeVar("T")


class Deadline:
    """The end of a request's time.

    Args:
        timeout: seconds from now.
        error: of ``wait_for``, when the time is up.

    Attributes:
        time: on the clock of the event loop.
    """

    def __init__(self, timeout: float, error: Exception | None = None) -> None:
        message = f"the request was not done in {timeout:g} seconds; ask for fewer tokens"
        self.error = error or ApiError(504, message, None, "timeout", NO_RETRY)
        self.time = asyncio.get_running_loop().time() + timeout

    async def wait_for(self, work: Awaitable[T]) -> T:
        """Await something until then, and raise the error where that takes longer."""
        try:
            async with asyncio.timeout_at(self.time):
                return await work
        except TimeoutError:
            raise self.error from None


class Stream:
    """The rows of one request, as its coroutine sees them.

    Args:
        timeout: seconds that the request may take.

    Attributes:
        deadline: its end.
        timer: puts an error into the queue then; to be cancelled.
        queue: updates, or the error that ends the request.
        arrival_time: its start, on ``time.perf_counter``.
        number: of its ``Submit``.
        rows: those queued, of which ``running`` have not ended.
        prompt_tokens: of the prompts, of which ``cached_tokens`` were in the prefix cache.
        completion_tokens: so far, and ``first_token_time``, of the first, on that clock.
        prompts: what is said of them.
        chat: what the answers of a chat have in them, and how many ``reasoning_tokens``.
    """

    def __init__(self, timeout: float) -> None:
        self.arrival_time, self.deadline = time.perf_counter(), Deadline(timeout)
        self.number = self.rows = self.running = 0
        self.prompt_tokens = self.cached_tokens = self.completion_tokens = 0
        self.first_token_time: float | None = None
        self.prompts, self.chat, self.reasoning_tokens = PromptAnswers(), ChatMarks(), 0
        self.queue: asyncio.Queue[RowUpdate | BaseException] = asyncio.Queue()
        loop, put = asyncio.get_running_loop(), self.queue.put_nowait
        self.timer = loop.call_at(self.deadline.time, put, self.deadline.error)

    async def updates(self) -> AsyncIterator[RowUpdate]:
        """The updates of all rows, until every row has ended.

        Raises:
            ApiError: the time is up, a row has failed, or the server has aborted the request.
        """
        while self.running:
            update = await self.queue.get()
            if isinstance(update, BaseException):
                raise update
            if update.error is not None:
                raise failed_row(update.error)
            self.running -= update.finish_reason is not None
            self.cached_tokens += update.cached_tokens
            self.completion_tokens += len(update.token_ids)
            if update.token_ids and self.first_token_time is None:
                self.first_token_time = time.perf_counter()
            self.reasoning_tokens += update.reasoning_tokens
            yield update

    def end_without_tokens(self, rows: int) -> None:
        """End every row before its first token: the prompts, which were read, are all there is."""
        self.rows = self.running = rows
        self.prompt_tokens = sum(reading.prompt_tokens for reading in self.prompts.readings)
        for row in range(rows):
            self.queue.put_nowait(RowUpdate(row, "", [], finish_reason="length"))

    def usage(self, completion_tokens: int) -> dict[str, Any]:
        """The counts of tokens as OpenAI writes them, once every row has ended."""
        counts = usage(self.prompt_tokens, completion_tokens, self.cached_tokens)
        if self.chat.thought is not None:
            counts["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return counts
