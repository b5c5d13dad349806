"""A client's connection: uvicorn's, with limits on the head of a request.

A connection on which no request begins is closed, so that idle clients cannot take all
connections. What is no HTTP gets an error in OpenAI's shape.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from ..protocol.errors import ApiError

HEAD_TIMEOUT = 15.0  # seconds for the head of a request, from the connection or its first byte
MAX_HEAD = 1 << 19  # bytes, about: checked once per packet
_Protocol: Any = AutoHTTPProtocol


class ClientConnection(_Protocol):
    """A connection that is closed when the head of a request is too slow or too long."""

    _timer: asyncio.TimerHandle | None = None
    _in_head, _head_bytes = False, 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._head_bytes += len(data)
        if self._in_head and self._head_bytes > MAX_HEAD:
            self.transport.abort()
        elif self._request_running:
            self._stop_timer()
        elif self._timer is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
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
    def _request_running(self) -> bool:
        """Whether a request has no complete answer yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self._time_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_out(self) -> None:
        self._timer = None
        if not self._request_running:
            self.transport.close()
