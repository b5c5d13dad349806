"""The playground: a page at ``/``, and what it asks beside OpenAI's own interface.

The page is plain files that load nothing from elsewhere; its policy forbids all else. Generation
goes through ``/v1``; nothing here draws a token for an answer.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field, model_validator

from ...formula import Names
from ...grammar import FormulaError
from ..frontend.streams import within
from ..protocol.errors import ApiError, failed_formula
from ..protocol.messages import Inspect, Plan
from ..protocol.schema import Body, Message
from .app import unless_gone
from .formula_check import draft

if TYPE_CHECKING:
    from ..frontend.server import Server

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
TOKENS = 64  # of an answer, where the run file does not say how many


class Draft(Body):
    """A formula while it is typed.

    Attributes:
        formula: its text.
        declared: parameters that only it declares, with their defaults.
        params: the values of its parameters that are not their defaults.
    """

    formula: str
    declared: dict[str, float] = Field(default_factory=dict, max_length=64)
    params: dict[str, float] = Field(default_factory=dict, max_length=64)


class Asked(Body):
    """A formula, or its name, and values of its parameters, as a completion is asked for."""

    model: str
    params: dict[str, float]


class Shown(Asked):
    """An answer that was shown: what it was asked with, and its tokens."""

    prompt: str | None = None
    messages: list[Message] | None = None
    seed: int
    temperature: float = Field(ge=0)
    token_ids: list[int] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_prompt(self) -> Shown:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self

    @property
    def asked(self) -> Any:
        """The prompt: text, or messages."""
        return [one.plain() for one in self.messages] if self.messages else self.prompt


def router(server: Server) -> APIRouter:
    """The page and its endpoints.

    Args:
        server: of which it is a part.
    """
    routes = APIRouter(include_in_schema=False)
    one_at_a_time = asyncio.Lock()  # each has caches of its own

    @routes.get("/")
    async def page() -> Response:
        return _file("index.html")

    @routes.get("/page/{name}")
    async def part(name: str) -> Response:
        return _file(name)

    @routes.get("/playground/known")
    async def known() -> dict[str, Any]:
        run = server.run
        said = {name: getattr(run.generate, name) for name in run.generate.model_fields_set}
        return {
            "formulas": {name: one.text for name, one in server.formulas.items()},
            "models": sorted(server.run.models),
            "allow_formulas": server.allow_formulas,
            "keys": bool(server.keys),
            "temperature": said.get("temperature"),
            "max_tokens": min(said.get("max_new_tokens", TOKENS), server.limits.max_tokens),
        }

    @routes.post("/playground/check")
    def check(asked: Draft) -> dict[str, Any]:
        params = {**server.run.params, **asked.declared}
        try:
            names = Names(frozenset(server.run.models), frozenset(params), server.run.prompts)
        except ValueError as error:
            raise ApiError(400, str(error), "declared", "invalid_value") from None
        return draft(asked.formula, names, params, asked.params)

    @routes.post("/playground/plan")
    async def plan(asked: Asked) -> dict[str, str]:
        async with server.formula(asked.model, asked.params) as formula:
            return {"plan": await server.link.ask(Plan(formula))}

    @routes.post("/playground/inspect", response_model=None)
    async def inspect(asked: Shown, request: Request) -> Response:
        async def inspected() -> Response:
            deadline = asyncio.get_running_loop().time() + server.limits.timeout
            with server.admitted(1):
                said = _inspected(server, asked, one_at_a_time)
                return JSONResponse(await within(said, deadline, server.limits.timeout))

        return await unless_gone(request, inspected())

    return routes


async def _inspected(server: Server, asked: Shown, turn: asyncio.Lock) -> dict[str, Any]:
    """Why each token; the decode process makes a step of it between two of the others."""
    if len(asked.token_ids) > (most := server.limits.max_tokens):
        message = f"the answer has {len(asked.token_ids)} tokens; the server reads at most {most}"
        raise ApiError(400, message, "token_ids", "invalid_value")
    said = {
        "n": CANDIDATES, "params": asked.params, "seed": asked.seed,
        "temperature": asked.temperature, "token_ids": asked.token_ids,
    }  # fmt: skip
    async with server.formula(asked.model, asked.params) as formula, turn:
        try:
            found: dict[str, Any] = await server.link.ask(Inspect(formula, asked.asked, said))
            return found
        except FormulaError as error:
            raise failed_formula(error) from None
        except ValueError as error:
            raise ApiError(400, str(error), None, "invalid_value") from None


def _file(name: str) -> Response:
    if name not in FILES:
        raise ApiError(404, f"there is no /page/{name} here")
    file = FILES[name]  # small, and sent whole: a range of it has no use
    return Response(file.read_bytes(), media_type=TYPES[file.suffix], headers=HEADERS)
