"""What stands before the application: keys, the size and the time of a body, and the counts.

An ASGI application around the application, so that nothing is read from a client that may not
come in. It knows paths and headers, and nothing of what a request asks.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..frontend.server import Server
from ..protocol.errors import ApiError

BODY = 60.0  # seconds for a body to come, at most: it is small
GONE = 499  # the client left before its answer
OUTCOME = "outcome"  # of scope["state"]: what became of an answer that had begun
_OPEN = frozenset(("/", "/health"))  # without a key, beside the playground's files
_FILES = "/page/"
_COUNTED = frozenset(("/v1/completions", "/v1/chat/completions", "/v1/score"))
_OUTCOMES: Mapping[int, str] = {
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    413: "too_large",
    422: "formula_error",
    429: "queue_full",
    GONE: "disconnected",
    503: "unavailable",
    504: "timeout",
}


class Gate:
    """The application, for those who may come in.

    Args:
        app: the application.
        server: whose keys and limits they are.
    """

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), GONE
        scope.setdefault("state", {})
        if scope["method"] == "HEAD":  # whoever sends the answer leaves its body out
            scope = {**scope, "method": "GET"}

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, self._in_time(receive), counted)
        except ApiError as error:
            await error.response()(scope, receive, counted)
        finally:
            if scope["path"] in _COUNTED:
                self._count(scope, status, time.perf_counter() - start)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if not self._server.keys and not is_this_machine(scope, headers.get("host", "")):
            message = (
                "this server takes what comes from its own machine only as localhost or by an "
                "address, so that no other site can reach it; give it an API key, or let the "
                "proxy before it say Host: localhost"
            )
            raise ApiError(403, message, None, "unknown_host")
        if self._server.keys and not is_open(scope):
            kind, _, given = headers.get("authorization", "").partition(" ")
            said = given.strip().encode("latin-1")  # as it came
            known = [hmac.compare_digest(key, said) for key in self._server.keys]
            if kind.lower() != "bearer" or not any(known):
                message = "this server wants an API key: Authorization: Bearer …"
                wanted = {"www-authenticate": "Bearer"}
                raise ApiError(401, message, None, "invalid_api_key", wanted)
        most, length = self._server.limits.max_body, headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > most):
            raise too_large(most)

    def _in_time(self, receive: Receive) -> Receive:
        """``receive``, for a body that must be there before the request's time is up."""
        seconds, there = min(self._server.limits.timeout, BODY), False
        deadline = asyncio.get_running_loop().time() + seconds

        async def receiving() -> Message:
            nonlocal there
            if there:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body was not there in {seconds:g} seconds") from None
            there = not message.get("more_body", False)
            return message

        return receiving

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        meters, endpoint = self._server.meters, scope["path"]
        outcome = "ok" if status < 400 else "invalid" if status < 500 else "failed"
        outcome = scope["state"].get(OUTCOME) or _OUTCOMES.get(status, outcome)
        meters.requests.labels(endpoint, outcome).inc()
        meters.whole.labels(endpoint).observe(seconds)


def too_large(most: int) -> ApiError:
    """A body beyond the limit."""
    return ApiError(413, f"the body is larger than {most} bytes", None, "too_large")


def is_this_machine(scope: Mapping[str, Any], host: str) -> bool:
    """Whether a request that never left this machine says so, or comes over the network.

    A page of another site may have its own name resolve to 127.0.0.1 (DNS rebinding), and then
    ask as if it were the server's own; the name that it asks for is still that site's.

    >>> [is_this_machine({"server": ("127.0.0.1", 8000)}, one)
    ...  for one in ("localhost:8000", "127.0.0.1", "[::1]:8000", "", "example.org:8000")]
    [True, True, True, True, False]
    """
    here, _ = scope.get("server") or ("", None)
    if not _is_loopback(here):
        return True
    name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
    name = name.strip("[]").rstrip(".").lower()
    return name in ("", "localhost") or name.endswith(".localhost") or _address(name) is not None


def _is_loopback(name: str) -> bool:
    found = _address(name)
    return found is not None and found.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def is_open(scope: Mapping[str, Any]) -> bool:
    """Whether a path needs no key: the playground's page and files, and whether all is well."""
    reading = scope["method"] in ("GET", "HEAD")
    return reading and (scope["path"] in _OPEN or scope["path"].startswith(_FILES))
