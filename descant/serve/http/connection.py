"""One connection of a client, as uvicorn has it, and how long it may take to say what it wants.

A connection on which nothing is asked is closed, so that silent ones cannot take all there are.
What cannot be read as HTTP is answered in OpenAI's shape, as all else is. No request is known here.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ..protocol.errors import ApiError

HEAD = 15.0  # seconds for the head of a request, from the connection or its first byte
MOST_HEAD = 1 << 19  # its bytes, more or less: what comes at once is not parted
_Protocol: Any = AutoHTTPProtocol


class Connection(_Protocol):
    """A connection that is closed where the head of a request is long in coming, or too long."""

    _alarm: asyncio.TimerHandle | None = None
    _reading, _heard = False, 0  # whether a head is being read, and bytes since it began

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """A client says something."""
        super().data_received(data)
        self._heard += len(data)
        if self._reading and self._heard > MOST_HEAD:
            self.transport.abort()
        elif self._asked:
            self._relax()
        elif self._alarm is None:
            self._expect()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._reading, self._heard = True, 0

    def on_headers_complete(self) -> None:
        """A head is there."""
        self._reading = False
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._relax()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        body = json.dumps(ApiError(400, "this is no HTTP request", None, "invalid_http").body())
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write((head + body).encode())
        self.transport.close()

    @property
    def _asked(self) -> bool:
        """Whether a request is there that has not been answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self) -> None:
        self._alarm = asyncio.get_running_loop().call_later(HEAD, self._hang_up)

    def _relax(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _hang_up(self) -> None:
        self._alarm = None
        if not self._asked:
            self.transport.close()
