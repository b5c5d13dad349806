"""The route ``/v1/responses``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from ..frontend.server import Server
from ..frontend.streams import Stream
from ..protocol import errors
from ..protocol.chats import ChatAnswers
from ..protocol.responses import ResponseFormat
from ..protocol.schema import ResponsesRequest
from .event_stream import EventStream
from .guard import OUTCOME, client_of, outcome_of, unless_left


def router(server: Server) -> APIRouter:
    """The route."""
    routes = APIRouter()

    @routes.post("/v1/responses", response_model=None)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        return await unless_left(request, _respond(server, body, request))

    return routes


async def _respond(server: Server, body: ResponsesRequest, request: Request) -> Response:
    """A response: complete, or as a stream that aborts its row when it ends early."""
    shape = ResponseFormat(body)
    async with AsyncExitStack() as stack:
        chat = body.chat()
        decoding = server.decoding(chat, client_of(request))
        stream = await stack.enter_async_context(decoding)
        shape.answers = ChatAnswers(chat, stream.chat)
        if body.stream:
            events = _events(stream, shape, request)
            return EventStream(events, stack.pop_all(), stream.deadline, body.headers)
        [last] = [update async for update in stream.updates() if update.finish_reason]
        counts = stream.usage(len(last.token_ids))
        return JSONResponse(shape.response(last, counts), headers=body.headers)


async def _events(stream: Stream, shape: ResponseFormat, request: Request) -> AsyncIterator[str]:
    tokens, outcome = 0, "ok"
    try:
        for said in shape.first_events():
            yield said
        async for update in stream.updates():
            tokens += len(update.token_ids)
            for said in shape.events(update):
                yield said
            if update.finish_reason:
                for said in shape.last_events(update, stream.usage(tokens)):
                    yield said
    except errors.ApiError as error:
        yield shape.failure(error.body()["error"])
        outcome = outcome_of(error.status)
    except Exception as error:
        failure = errors.bug(error, request.url.path)
        yield shape.failure(failure.body()["error"])
        outcome = outcome_of(failure.status)
    request.scope["state"][OUTCOME] = outcome
