"""A stream of server-sent events, whose rows end when it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..frontend.streams import Deadline
from .guard import OUTCOME

GRACE = 30.0  # seconds after its deadline in which a client may read its stream


class EventStream(StreamingResponse):
    """Server-sent events that close their stack however they end."""

    def __init__(
        self, events: AsyncIterator[str], stack: AsyncExitStack, deadline: Deadline,
        headers: Mapping[str, str],
    ) -> None:  # fmt: skip
        own = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers={**own, **headers})
        self._stack, self._deadline = stack, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"][OUTCOME] = "disconnected"  # until the last event
        async with self._stack, asyncio.timeout_at(self._deadline.time + GRACE):
            await super().__call__(scope, receive, send)
