"""The routes of OpenAI's interface, and the application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp

from ... import __version__
from ..frontend.metrics import CONTENT_TYPE
from ..frontend.server import DecodeRequest, Server
from ..frontend.streams import Stream
from ..protocol import errors
from ..protocol.answers import DONE, ChatFormat, CompletionFormat, event, head
from ..protocol.chats import ChatAnswers
from ..protocol.schema import ChatRequest, CompletionRequest, ScoreRequest, StreamOptions
from . import adapter_routes, playground, responses, text_routes
from .event_stream import EventStream
from .guard import OUTCOME, RequestGuard, client_of, outcome_of, run_job, unless_left


def application(server: Server) -> ASGIApp:
    """The ASGI application of a started server."""
    app = FastAPI(
        title="descant", version=__version__, docs_url=None, redoc_url=None,
        max_body_size=server.limits.max_body, redirect_slashes=False,
        responses={"4XX": {"model": errors.ErrorResponse}, "5XX": {"model": errors.ErrorResponse}},
    )  # fmt: skip
    errors.add_error_handlers(app)
    app.include_router(_router(server))
    app.include_router(text_routes.router(server))
    app.include_router(responses.router(server))
    app.include_router(adapter_routes.router(server))
    app.include_router(playground.router(server))
    return server.traces.middleware(RequestGuard(app, server))


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
    @router.get("/models", include_in_schema=False)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(server, name) for name in server.run.named]}

    @router.get("/v1/models/{name:path}")
    @router.get("/models/{name:path}", include_in_schema=False)
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
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(server.decoding(body, client_of(request)))
        shape = kind(
            body.model, body.with_logprobs, bool(body.return_token_ids), body.best,
            bool(body.return_tokens_as_token_ids), stream.prompts,
        )  # fmt: skip
        if isinstance(shape, ChatFormat) and isinstance(body, ChatRequest):
            shape.answers = ChatAnswers(body, stream.chat)
        if body.stream:
            events = _events(stream, shape, body.stream_options or StreamOptions(), request)
            return EventStream(events, stack.pop_all(), stream.deadline, body.headers)
        rows = [update async for update in stream.updates() if update.finish_reason]
        tokens = sum(len(update.token_ids) for update in rows)
        return JSONResponse(shape.response(rows, stream.usage(tokens)), headers=body.headers)


async def _events(
    stream: Stream, shape: CompletionFormat, options: StreamOptions, request: Request
) -> AsyncIterator[str]:
    tokens, outcome = 0, "ok"

    def counts() -> dict[str, Any]:
        if not options.include_usage:
            return {}
        return {"usage": stream.usage(tokens) if options.continuous_usage_stats else None}

    try:
        for chunk in shape.first_chunks(stream.rows):
            yield event({**chunk, **counts()})
        async for update in stream.updates():
            tokens += len(update.token_ids)
            yield event(shape.chunk([shape.choice(update, streamed=True)], counts()))
        if options.include_usage:
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
