"""The routes: what a client may ask over HTTP, and how it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from ... import __version__
from ...grammar import did_you_mean
from ..frontend.metrics import CONTENT_TYPE
from ..frontend.scores import scores
from ..frontend.server import Asked, Server
from ..frontend.streams import Stream, within
from ..protocol.answers import DONE, Chats, Texts, event, head, usage
from ..protocol.errors import ApiError, Refusal, install, unavailable
from ..protocol.messages import Told
from ..protocol.schema import Chat, Completion, Score
from .gate import GONE, OUTCOME, Gate

GRACE = 30.0  # seconds beyond its time that a client may take to read its stream
BODIES: dict[str, type[BaseModel]] = {
    "/v1/completions": Completion,
    "/v1/chat/completions": Chat,
    "/v1/score": Score,
}


def application(server: Server) -> ASGIApp:
    """The whole of it, for uvicorn.

    Args:
        server: started.
    """
    app = FastAPI(
        title="descant", version=__version__, docs_url=None, redoc_url=None,
        max_body_size=server.limits.max_body, redirect_slashes=False,
        responses={"4XX": {"model": Refusal}, "5XX": {"model": Refusal}},
    )  # fmt: skip
    install(app, BODIES)
    app.include_router(_state(server))
    app.include_router(_routes(server))
    if (playground := _playground()) is not None:
        app.include_router(playground.router(server))
    return Gate(app, server)


def _playground() -> Any:
    """The module of the page at ``/``, where it is installed."""
    name = f"{__package__}.playground"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def _state(server: Server) -> APIRouter:
    """What is served, and how it goes."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, str]:
        if server.link.failure is not None:
            raise unavailable("the decode process has failed")
        if server.stopping:
            raise unavailable("the server is shutting down")
        return {"status": "ok"}

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(server.meters.text(), media_type=CONTENT_TYPE)

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(server, name) for name in server.formulas]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in server.formulas:
            cure = did_you_mean(name[:100], server.formulas)
            message = f"there is no model {name[:100]!r}; {cure}"
            raise ApiError(404, message, "model", "model_not_found")
        return _model(server, name)

    return router


def _model(server: Server, name: str) -> dict[str, Any]:
    named = server.formulas[name]
    return {
        "id": name,
        "object": "model",
        "created": server.started,
        "owned_by": "descant",
        "max_model_len": server.limits.max_model_len,
        "formula": named.text,
        "params": named.params,
    }


def _routes(server: Server) -> APIRouter:
    """What is computed."""
    router = APIRouter(prefix="/v1")

    @router.post("/completions", response_model=None)
    async def completions(body: Completion, request: Request) -> Response:
        shape = Texts(body.model, body.with_logprobs, bool(body.return_token_ids))
        return await unless_gone(request, _completed(server, body, shape, request))

    @router.post("/chat/completions", response_model=None)
    async def chats(body: Chat, request: Request) -> Response:
        shape = Chats(body.model, body.with_logprobs, bool(body.return_token_ids))
        return await unless_gone(request, _completed(server, body, shape, request))

    @router.post("/score", response_model=None)
    async def score(body: Score, request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + server.limits.timeout

        async def scored() -> Response:
            with server.admitted(1):
                asked = scores(server, body.model, *body.pairs)
                found = await within(asked, deadline, server.limits.timeout)
            data = [
                {"index": index, "object": "score", "score": one} for index, one in enumerate(found)
            ]
            return JSONResponse({**head("score", "list", body.model), "data": data})

        return await unless_gone(request, scored())

    return router


async def unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """The answer, or none as soon as the client has left."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=GONE)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _completed(server: Server, body: Asked, shape: Texts, request: Request) -> Response:
    """A completion: whole, or as a stream that lets go of its rows when it ends."""
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(server.decoding(body))
        if body.stream:
            counts = bool(body.stream_options and body.stream_options.include_usage)
            events = _events(stream, shape, counts, request)
            return _Events(events, stack.pop_all(), stream.deadline + GRACE)
        last: list[Told] = [told async for told in stream.told() if told.finish_reason]
        tokens = sum(len(told.token_ids) for told in last)
        return JSONResponse(shape.answer(last, usage(stream.prompt_tokens, tokens)))


class _Events(StreamingResponse):
    """Server-sent events; however they end, what they hold is let go of."""

    def __init__(self, events: AsyncIterator[str], stack: AsyncExitStack, deadline: float) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._stack, self._deadline = stack, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"][OUTCOME] = "disconnected"  # unless the events get to their end
        async with self._stack, asyncio.timeout_at(self._deadline):
            await super().__call__(scope, receive, send)


async def _events(
    stream: Stream, shape: Texts, counts: bool, request: Request
) -> AsyncIterator[str]:
    more, tokens, outcome = ({"usage": None} if counts else {}), 0, "ok"
    try:
        for row in range(stream.rows):
            if opening := shape.opening(row):
                yield event(shape.piece(opening, more))
        async for told in stream.told():
            tokens += len(told.token_ids)
            for choice in shape.pieces(told):
                yield event(shape.piece(choice, more))
        if counts:
            yield event(shape.piece(None, {"usage": usage(stream.prompt_tokens, tokens)}))
    except ApiError as error:
        yield event(error.body())
        outcome = {504: "timeout", 422: "formula_error"}.get(error.status, "failed")
    request.scope["state"][OUTCOME] = outcome
    yield DONE
