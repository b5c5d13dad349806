"""The server as a process: uvicorn, and a shutdown that finishes running requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvicorn

from ..frontend.server import Server
from ..protocol.errors import unavailable
from .app import application
from .connection import ClientConnection


class HttpServer(uvicorn.Server):
    """uvicorn, which on SIGTERM refuses new requests and waits for running ones."""

    def __init__(self, server: Server, **options: Any) -> None:
        app = application(server)
        super().__init__(uvicorn.Config(app, lifespan="off", http=ClientConnection, **options))
        self._server, self._deadline = server, 0.0

    async def startup(self, sockets: Any = None) -> None:
        self._server.link.listen()
        await super().startup(sockets)

    async def shutdown(self, sockets: Any = None) -> None:
        """Close the connections, then stop the decode process: uvicorn may raise a signal next."""
        await super().shutdown(sockets)
        self._server.stop()

    async def on_tick(self, counter: int) -> bool:
        """Whether to exit: on a signal, when no request runs or their time is up."""
        exiting: bool = await super().on_tick(counter)
        if self._server.link.failure is not None:
            return True
        if not exiting or self.force_exit:
            return exiting
        if not self._server.stopping:
            self._server.stopping = True
            self._deadline = time.monotonic() + self._server.limits.shutdown_timeout
        if self._server.busy and time.monotonic() < self._deadline:
            return False
        if self._server.busy:
            self._server.link.abort_all(unavailable())
            await asyncio.sleep(0.5)  # until the errors are sent
        return True

    @property
    def port(self) -> int:
        """The port that it listens to."""
        return int(self.servers[0].sockets[0].getsockname()[1])


def serve(server: Server, **options: Any) -> bool:
    """Start a server and serve until a signal; the options are those of ``uvicorn.Config``.

    Returns:
        False where the decode process has failed.
    """
    try:
        server.start()
        HttpServer(server, timeout_graceful_shutdown=5, **options).run()
    finally:
        server.stop()
    return server.link.failure is None
