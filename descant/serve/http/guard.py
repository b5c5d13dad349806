"""What runs around the application: keys, the size and the time of a body, departures, the counts.

The guard is an ASGI application around the application, so that a refused client's body is never
read. It reads paths and headers alone.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..frontend.server import Server
from ..frontend.streams import Deadline
from ..protocol.errors import LOGGED, ApiError
from ..protocol.schema import BODIES

CLIENT_LEFT = 499  # the status of a request whose client has left
BODY = 60.0  # seconds in which a body must arrive
CLIENT = "client"  # key of scope["state"]: whose request it is
OUTCOME = "outcome"  # key of scope["state"]: the outcome of a stream
# Paths that need no key, nor do the files of the page.
_KEYLESS = frozenset(("/", "/health", "/ping", "/version"))
_OUTCOMES: Mapping[int, str] = {
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    413: "too_large",
    422: "formula_error",
    429: "queue_full",
    CLIENT_LEFT: "disconnected",
    503: "unavailable",
    504: "timeout",
}


class RequestGuard:
    """The application, behind the checks of the server's keys and limits."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), CLIENT_LEFT
        scope.setdefault("state", {})
        if scope["method"] == "HEAD":  # uvicorn leaves the body out
            scope = {**scope, "method": "GET"}

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            scope["state"][CLIENT] = self._check(scope)
            await self._app(scope, self._with_deadline(receive), send_and_note)
        except ApiError as error:
            await error.response()(scope, receive, send_and_note)
        except Exception:  # raised again after its answer
            if not scope["state"].get(LOGGED):
                raise
        finally:
            if scope["path"] in BODIES:
                metrics, endpoint = self._server.metrics, scope["path"]
                outcome = scope["state"].get(OUTCOME) or outcome_of(status)
                metrics.requests.labels(endpoint, outcome).inc()
                metrics.request.labels(endpoint).observe(time.perf_counter() - start)

    def _check(self, scope: Scope) -> Hashable:
        """Refuse what may not come in; whose it is, as one of the server's clients."""
        client: Hashable = client_address(scope)
        headers = Headers(scope=scope)
        if not self._server.keys and not is_allowed_host(scope, headers.get("host", "")):
            message = (
                "this server takes what comes from its own machine only as localhost or by an "
                "address, so that no other site can reach it; give it an API key, or let the "
                "proxy before it say Host: localhost"
            )
            raise ApiError(403, message, None, "unknown_host")
        path, reads = scope["path"], scope["method"] == "GET"
        keyless = reads and (path in _KEYLESS or path.startswith("/page/"))
        if self._server.keys and not keyless:
            kind, _, value = headers.get("authorization", "").partition(" ")
            sent = value.strip().encode("latin-1")  # the bytes as they came
            matches = [hmac.compare_digest(key, sent) for key in self._server.keys]
            if kind.lower() != "bearer" or not any(matches):
                message = "this server wants an API key: Authorization: Bearer …"
                challenge = {"www-authenticate": "Bearer"}
                raise ApiError(401, message, None, "invalid_api_key", challenge)
            client = matches.index(True)
        most, length = self._server.limits.max_body, headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 18 or int(length) > most):
            raise ApiError(413, f"the body is larger than {most} bytes", None, "too_large")
        return client

    def _with_deadline(self, receive: Receive) -> Receive:
        """``receive``, with a deadline until the body is complete."""
        seconds, complete = min(self._server.limits.timeout, BODY), False
        error = HTTPException(408, f"the body was not there in {seconds:g} seconds")
        deadline = Deadline(seconds, error)

        async def receive_in_time() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            message = await deadline.wait_for(receive())
            complete = not message.get("more_body", False)
            return message

        return receive_in_time


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
        with server.admitted(1, client_of(request)):
            return JSONResponse(await deadline.wait_for(job()))

    return await unless_left(request, response())


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def client_of(request: Request) -> Hashable:
    """Whose request it is: by its key, or by its address where the server has none."""
    client: Hashable = request.scope["state"].get(CLIENT)
    return client


def client_address(scope: Mapping[str, Any]) -> str:
    """The address that a request comes from; of IPv6 the network, of which a client has all.

    >>> [client_address({"client": (address, 5)}) for address in ("10.0.0.7", "2001:db8::1:2:3:4")]
    ['10.0.0.7', '2001:db8::/64']
    """
    said: str = (scope.get("client") or ("", None))[0]
    if isinstance(address := _address(said), ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return said


def outcome_of(status: int) -> str:
    """The metric's label for a status."""
    default = "ok" if status < 400 else "invalid" if status < 500 else "failed"
    return _OUTCOMES.get(status, default)


def is_allowed_host(scope: Mapping[str, Any], host: str) -> bool:
    """Whether a request came over the network, or names this machine in its Host header.

    A page of another site may have its own name resolve to 127.0.0.1 (DNS rebinding) and then send
    requests as the server's own; their Host is still that site's name.

    >>> [is_allowed_host({"server": ("127.0.0.1", 8000)}, host)
    ...  for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "", "example.org:8000")]
    [True, True, True, True, False]
    """
    own = _address((scope.get("server") or ("", None))[0])
    if own is None or not own.is_loopback:
        return True
    name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
    name = name.strip("[]").rstrip(".").lower()
    return name in ("", "localhost") or name.endswith(".localhost") or _address(name) is not None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
