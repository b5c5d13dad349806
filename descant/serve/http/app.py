"""The routes of OpenAI's interface, and the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ... import __version__
from ..frontend.metrics import CONTENT_TYPE
from ..frontend.server import DecodeRequest, Server
from ..frontend.streams import Stream
from ..protocol import errors
from ..protocol.answers import DONE, ChatFormat, CompletionFormat, event, head
from ..protocol.schema import ChatRequest, CompletionRequest, ScoreRequest
from . import playground
from .guard import OUTCOME, RequestGuard, client_of, outcome_of, run_job, unless_left

GRACE = 30.0  # seconds after its deadline in which a client may read its stream


def application(server: Server) -> ASGIApp:
    """The ASGI application of a started server."""
    app = FastAPI(
        title="descant", version=__version__, docs_url=None, redoc_url=None,
        max_body_size=server.limits.max_body, redirect_slashes=False,
        responses={"4XX": {"model": errors.ErrorResponse}, "5XX": {"model": errors.ErrorResponse}},
    )  # fmt: skip
    errors.add_error_handlers(app)
    app.include_router(_router(server))
    app.include_router(playground.router(server))
    return RequestGuard(app, server)


def _router(server: Server) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, Any]:
        if server.link.failure is not None:
            raise errors.unavailable("the decode process has failed")
        if server.stopping:
            raise errors.unavailable()
        return server.link.failures.health()

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type=CONTENT_TYPE)

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(server, name) for name in server.run.named]}

    @router.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(server, name)

    @router.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await unless_left(request, _complete(server, body, CompletionFormat, request))

    @router.post("/v1/chat/completions", response_model=None)
    async def chats(body: ChatRequest, request: Request) -> Response:
        return await unless_left(request, _complete(server, body, ChatFormat, request))

    @router.post("/v1/score", response_model=None)
    async def score(body: ScoreRequest, request: Request) -> Response:
        async def scores() -> dict[str, Any]:
            rewards = await server.score(body.model, *body.pairs, client_of(request))
            data = [{"index": i, "object": "score", "score": x} for i, x in enumerate(rewards)]
            return {**head("score", "list", body.model), "data": data}

        return await run_job(server, request, scores)

    return router


def _model(server: Server, name: str) -> dict[str, Any]:
    if name not in server.run.named:
        raise errors.unknown_model(name, server.run.named)
    return {
        "id": name,
        "object": "model",
        "created": server.started,
        "owned_by": "descant",
        "root": name,
        "max_model_len": server.max_model_len(name),
        "formula": server.run.named[name],
        "params": server.run.params,
    }


async def _complete(
    server: Server, body: DecodeRequest, kind: type[CompletionFormat], request: Request
) -> Response:
    """A completion: complete, or as a stream that aborts its rows when it ends early."""
    shape = kind(body.model, body.with_logprobs, bool(body.return_token_ids))
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(server.decoding(body, client_of(request)))
        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            events = _events(stream, shape, with_usage, request)
            return _EventStream(events, stack.pop_all(), stream.deadline.time + GRACE)
        rows = [update async for update in stream.updates() if update.finish_reason]
        tokens = sum(len(update.token_ids) for update in rows)
        return JSONResponse(shape.response(rows, stream.usage(tokens)))


class _EventStream(StreamingResponse):
    """Server-sent events that close their stack however they end."""

    def __init__(self, events: AsyncIterator[str], stack: AsyncExitStack, deadline: float) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._stack, self._deadline = stack, deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"][OUTCOME] = "disconnected"  # until the last event
        async with self._stack, asyncio.timeout_at(self._deadline):
            await super().__call__(scope, receive, send)


async def _events(
    stream: Stream, shape: CompletionFormat, with_usage: bool, request: Request
) -> AsyncIterator[str]:
    more, tokens, outcome = ({"usage": None} if with_usage else {}), 0, "ok"
    try:
        for choice in shape.first_choices(stream.rows):
            yield event(shape.chunk([choice], more))
        async for update in stream.updates():
            tokens += len(update.token_ids)
            yield event(shape.chunk([shape.choice(update, streamed=True)], more))
        if with_usage:
            yield event(shape.chunk([], {"usage": stream.usage(tokens)}))
    except errors.ApiError as error:
        yield event(error.body())
        outcome = outcome_of(error.status)
    except Exception as error:
        failure = errors.bug(error, request.url.path)
        yield event(failure.body())
        outcome = outcome_of(failure.status)
    request.scope["state"][OUTCOME] = outcome
    yield DONE
