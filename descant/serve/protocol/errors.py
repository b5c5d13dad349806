"""Errors as clients get them, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ...grammar import FormulaError, did_you_mean
from ...models import ModelError
from .invalid import explain_invalid, explain_unreadable
from .schema import BODIES

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_NO_RETRY = {"x-should-retry": "false"}  # the openai client retries 5xx otherwise


class ErrorInfo(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The body of every answer whose status is 4xx or 5xx."""

    error: ErrorInfo


@dataclass(eq=False)
class ApiError(Exception):
    """A request that is refused or has failed.

    Attributes:
        status: the HTTP status.
        message: what is wrong and what to do instead.
        param: the field of the body that is wrong.
        code: a word for programs.
        headers: of the response.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] | None = None

    def body(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "param", "code"}}``."""
        default = "invalid_request_error" if self.status < 500 else "server_error"
        kind = _TYPES.get(self.status, default)
        info = ErrorInfo(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorResponse(error=info).model_dump()

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)


def invalid_value(problem: object, param: str | None = None) -> ApiError:
    """A value of the body that cannot be used."""
    return ApiError(400, str(problem), param, "invalid_value")


def invalid_formula(error: FormulaError | ModelError, param: str = "model") -> ApiError:
    """A formula that cannot be compiled; the message has its caret."""
    code = "formula_error" if isinstance(error, FormulaError) else "model_error"
    return ApiError(400, str(error), param, code)


def unknown_model(name: str, known: Iterable[str], kind: str = "model") -> ApiError:
    """A name that the run file does not declare."""
    cure = did_you_mean(name[:100], known) or "the run file declares none"
    return ApiError(404, f"there is no {kind} {name[:100]!r}; {cure}", "model", "model_not_found")


def failed_formula(error: FormulaError) -> ApiError:
    """A formula that failed for this request: NaN, or every token excluded."""
    return ApiError(422, str(error), None, "formula_error")


def timed_out(seconds: float) -> ApiError:
    """A request that has used up its time."""
    message = f"the request was not done in {seconds:g} seconds; ask for fewer tokens"
    return ApiError(504, message, None, "timeout", _NO_RETRY)


def unavailable(reason: str) -> ApiError:
    """The server takes no requests, or has aborted this one."""
    return ApiError(503, reason, None, "unavailable")


def server_error() -> ApiError:
    """A failure that is not the request's fault; the log has the cause."""
    return ApiError(500, "the server failed; its log says why", None, "server_error", _NO_RETRY)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the application in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(FormulaError)
    @app.exception_handler(ModelError)
    async def formula_error(request: Request, error: FormulaError | ModelError) -> JSONResponse:
        return invalid_formula(error).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        known = {
            400: (explain_unreadable(error.__cause__), "invalid_json"),
            404: (f"there is no {request.method} {request.url.path} here", "not_found"),
            405: (f"{request.url.path} does not take {request.method}", "method_not_allowed"),
            408: (str(error.detail), "timeout"),
            413: ("the body is larger than this server takes", "too_large"),
        }
        message, code = known.get(error.status_code, (str(error.detail), None))
        return ApiError(error.status_code, message, None, code, error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid_body(request: Request, error: RequestValidationError) -> JSONResponse:
        body = BODIES.get(request.url.path)
        message, param = explain_invalid(error.errors(), body.model_fields if body else ())
        code = "invalid_json" if error.errors()[0]["type"] == "json_invalid" else "invalid_value"
        return ApiError(400, message, param, code).response()

    @app.exception_handler(Exception)
    async def other_error(request: Request, error: Exception) -> JSONResponse:
        return server_error().response()
