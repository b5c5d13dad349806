"""The end of a request before its answer: its time is up, or its client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from ..frontend.server import Server
from ..frontend.streams import Deadline

CLIENT_LEFT = 499  # the status of a request whose client has left


async def unless_left(request: Request, work: Awaitable[Response]) -> Response:
    """The response of some work, which is cancelled as soon as the client has left."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=CLIENT_LEFT)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))


async def run_job(
    server: Server, request: Request, job: Callable[[], Awaitable[dict[str, Any]]]
) -> Response:
    """Admit a request that takes no slot, and run its job in the time that the server gives it."""
    deadline = Deadline(server.limits.timeout)

    async def response() -> Response:
        with server.admitted(1):
            return JSONResponse(await deadline.wait_for(job()))

    return await unless_left(request, response())


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
