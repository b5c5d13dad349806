"""Routes about texts and the server itself, as vLLM has them: tokens, version, load."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ... import __version__
from ...errors import DescantError
from ..frontend.server import Server
from ..protocol import errors
from ..protocol.messages import DetokenizeJob, TokenizeJob
from ..protocol.schema import DetokenizeRequest, TokenizeRequest
from .guard import client_of, run_job


def router(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/ping")
    @routes.post("/ping")
    async def ping() -> Response:
        if server.link.failure is not None or server.stopping:
            raise errors.unavailable()
        return Response()

    @routes.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @routes.get("/load")
    async def load() -> dict[str, int]:
        return {"server_load": server.rows}

    @routes.post("/tokenize", response_model=None)
    async def tokenize(body: TokenizeRequest, request: Request) -> Response:
        async def tokens() -> dict[str, Any]:
            prompt: Any = body.prompt
            if body.messages is not None:
                prompt = body.chat(_model(server, body.model)).prompts[0]
            special = body.add_special_tokens is not False
            ids, names = await _ask(server, request, body.model, TokenizeJob, prompt, special)
            return {
                "count": len(ids),
                "max_model_len": server.limits.max_model_len,
                "tokens": ids,
                "token_strs": names if body.return_token_strs else None,
            }

        return await run_job(server, request, tokens)

    @routes.post("/detokenize", response_model=None)
    async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
        async def text() -> dict[str, Any]:
            return {"prompt": await _ask(server, request, body.model, DetokenizeJob, body.tokens)}

        return await run_job(server, request, text)

    return routes


def _model(server: Server, model: str | None) -> str:
    """The formula that a request names, or the first."""
    return next(iter(server.run.named), "") if model is None else model


async def _ask(
    server: Server, request: Request, model: str | None, job: Any, *arguments: Any
) -> Any:
    """The reply to a job about a formula's tokens."""
    ref = server.formula_ref(_model(server, model), {})
    async with server.formulas.use(ref, client_of(request)) as formula:
        try:
            return await server.link.call(job(formula, *arguments))
        except DescantError as error:
            raise errors.invalid_value(error) from None
