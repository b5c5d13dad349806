"""The playground: a page at ``/``, and its routes besides those of OpenAI's interface.

The page is plain files that load nothing from elsewhere; its policy forbids it. Generation goes
through ``/v1``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, model_validator

from ...errors import DescantError
from ...formula.words.signature import MOST
from ...grammar import FormulaError
from ..frontend.server import Server
from ..protocol import errors
from ..protocol.messages import InspectJob, PlanJob
from ..protocol.schema import Body, ChatMessage
from ..worker.checks import CheckFormula
from .guard import client_of, run_job

PAGE = Path(__file__).parents[1] / "page"
REPORT = Path(__file__).parents[2] / "report" / "templates"  # tokens are explained as in a report
FILES = {
    file.name: file
    for file in (*PAGE.iterdir(), *(REPORT / name for name in ("dom.js", "why.js", "page.css")))
}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
CANDIDATES = 8  # of each token
MAX_TOKENS = 64  # of an answer, where the run file does not set max_new_tokens


class FormulaDraft(Body):
    """A formula while it is typed, the parameters that only it declares, and changed values."""

    formula: str
    declared: dict[str, float] = Field(default_factory=dict, max_length=64)
    params: dict[str, float] = Field(default_factory=dict, max_length=64)


class PlanRequest(Body):
    """A formula, or its name, and values of its parameters."""

    model: str
    params: dict[str, float]


class InspectRequest(PlanRequest):
    """An answer on the page: its request, and its tokens."""

    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    seed: int
    temperature: float = Field(ge=0, le=MOST)
    token_ids: list[int] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_prompt(self) -> InspectRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self


def router(server: Server) -> APIRouter:
    """The routes of the page, of its files and of its requests."""
    routes = APIRouter(include_in_schema=False)
    inspect_lock = asyncio.Lock()  # each inspection has caches of its own

    @routes.get("/page/{name}")
    async def file(name: str) -> Response:
        if name not in FILES:
            raise errors.ApiError(404, f"there is no /page/{name} here")
        media_type = TYPES[FILES[name].suffix]
        return Response(FILES[name].read_bytes(), media_type=media_type, headers=HEADERS)

    @routes.get("/")
    async def page() -> Response:
        return await file("index.html")

    @routes.get("/playground/known")
    async def known() -> dict[str, Any]:
        tokens = server.setting("max_new_tokens") or MAX_TOKENS
        return {
            "formulas": server.run.named,
            "models": sorted(server.run.models),
            "allow_formulas": server.allow_formulas,
            "keys": bool(server.keys),
            "temperature": server.setting("temperature"),
            "max_tokens": min(tokens, server.limits.max_tokens),
        }

    @routes.post("/playground/check", response_model=None)
    async def check(body: FormulaDraft, request: Request) -> Response:
        params = {**server.run.params, **body.declared}
        try:
            names = server.run.names(params)
        except DescantError as error:
            raise errors.invalid_value(error, "declared") from None

        async def checked() -> dict[str, Any]:
            draft = CheckFormula(body.formula, names, params, body.params)
            found: dict[str, Any] = await server.checks.run(draft, client_of(request))
            return found

        return await run_job(server, request, checked)

    @routes.post("/playground/plan", response_model=None)
    async def plan(body: PlanRequest, request: Request) -> Response:
        async def printed() -> dict[str, Any]:
            ref = server.formula_ref(body.model, body.params)
            async with server.formulas.use(ref, client_of(request)) as formula:
                return {"plan": await server.link.call(PlanJob(formula))}

        return await run_job(server, request, printed)

    @routes.post("/playground/inspect", response_model=None)
    async def inspect(body: InspectRequest, request: Request) -> Response:
        return await run_job(
            server, request, lambda: _inspect(server, body, inspect_lock, client_of(request))
        )

    return routes


async def _inspect(
    server: Server, body: InspectRequest, lock: asyncio.Lock, client: Hashable
) -> dict[str, Any]:
    """Why each token was chosen; the decode process reads a token between two steps."""
    if len(body.token_ids) > (most := server.limits.max_tokens):
        message = f"the answer has {len(body.token_ids)} tokens; the server reads at most {most}"
        raise errors.invalid_value(message, "token_ids")
    prompt = [message.plain() for message in body.messages] if body.messages else body.prompt
    arguments = body.model_dump(include={"params", "seed", "temperature", "token_ids"})
    arguments["n"] = CANDIDATES
    ref = server.formula_ref(body.model, body.params)
    async with server.formulas.use(ref, client) as formula, lock:
        try:
            await server.encoded(formula, [prompt], client)  # it may be read, and not too long
            reply: dict[str, Any] = await server.link.call(InspectJob(formula, prompt, arguments))
            return reply
        except FormulaError as error:
            raise errors.wrong_formula(error, None, 422) from None
        except DescantError as error:
            raise errors.invalid_value(error) from None
