"""The server as a process: uvicorn, and a shutdown that finishes what is in flight."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvicorn

from ..frontend.server import Server
from .app import application
from .connection import Connection


class Process(uvicorn.Server):
    """uvicorn, which on SIGTERM refuses what is new and waits for what is in flight.

    Args:
        server: started.
        **options: those of ``uvicorn.Config``.
    """

    def __init__(self, server: Server, **options: Any) -> None:
        super().__init__(
            uvicorn.Config(application(server), lifespan="off", http=Connection, **options)
        )
        self._server, self._deadline = server, 0.0

    async def startup(self, sockets: Any = None) -> None:
        """Listen: to the decode process, and to clients."""
        self._server.link.listen()
        await super().startup(sockets)

    async def shutdown(self, sockets: Any = None) -> None:
        """Let clients go, and then the decode process: a signal may end this one right after."""
        await super().shutdown(sockets)
        self._server.stop()

    async def on_tick(self, counter: int) -> bool:
        """Whether it is time to go: asked for, and nothing in flight or no time left."""
        going: bool = await super().on_tick(counter)
        if self._server.link.failure is not None:
            return True
        if not going or self.force_exit:
            return going
        if not self._server.stopping:
            self._server.stopping = True
            self._deadline = time.monotonic() + self._server.limits.shutdown_timeout
        if self._server.busy and time.monotonic() < self._deadline:
            return False
        if self._server.busy:
            self._server.abandon()
            await asyncio.sleep(0.5)  # for the last words to be sent
        return True

    @property
    def port(self) -> int:
        """Where it listens, once it does."""
        return int(self.servers[0].sockets[0].getsockname()[1])


def serve(server: Server, **options: Any) -> bool:
    """Serve until a signal; whether all went well.

    Args:
        server: not started yet.
        **options: those of ``uvicorn.Config``: ``host``, ``port``, …

    Raises:
        FormulaError, ModelError: a formula of the run file cannot be compiled.
    """
    try:
        server.start()
        Process(server, timeout_graceful_shutdown=5, **options).run()
    finally:
        server.stop()
    return server.link.failure is None
