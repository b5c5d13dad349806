"""What is said to a client when something is wrong, in OpenAI's shape. It decides nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ...grammar import FormulaError
from ...models import ModelError
from .invalid import explain_invalid, explain_unreadable

INVALID = "invalid_request_error"
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_FINAL = {"x-should-retry": "false"}  # the openai client would try 5xx again


class Wrong(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    """The body of every answer that is none."""

    error: Wrong


class ApiError(Exception):
    """A refusal or a failure, with its status.

    Args:
        status: the HTTP status.
        message: what is wrong and what to do instead.
        param: the field of the body that it is about.
        code: a word that programs can tell it by.
        headers: to go with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """``{"error": {"message", "type", "param", "code"}}``."""
        kind = _TYPES.get(self.status, INVALID if self.status < 500 else "server_error")
        said = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": said}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def wrong_formula(error: FormulaError, param: str = "model") -> ApiError:
    """A formula that cannot be what it says; the message has its caret."""
    return ApiError(400, str(error), param, "formula_error")


def failed_formula(error: FormulaError) -> ApiError:
    """A formula that could not go on for this request: NaN, or every token excluded."""
    return ApiError(422, str(error), None, "formula_error")


def timed_out(seconds: float) -> ApiError:
    """The request had its time."""
    message = f"the request was not done in {seconds:g} seconds; ask for fewer tokens"
    return ApiError(504, message, None, "timeout", _FINAL)


def unavailable(why: str) -> ApiError:
    """The server takes no requests, or has let go of this one."""
    return ApiError(503, why, None, "unavailable")


def broken() -> ApiError:
    """Something that is no fault of the request's; the log says what."""
    return ApiError(500, "the server failed; its log says why", None, "server_error", _FINAL)


def install(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> None:
    """Answer every error of the application in OpenAI's shape.

    Args:
        app: the application.
        bodies: what requests hold, by path.
    """

    @app.exception_handler(ApiError)
    async def ours(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(FormulaError)
    async def formula(request: Request, error: FormulaError) -> JSONResponse:
        return wrong_formula(error).response()

    @app.exception_handler(ModelError)
    async def models(request: Request, error: ModelError) -> JSONResponse:
        return ApiError(400, str(error), None, "model_error").response()

    @app.exception_handler(HTTPException)
    async def theirs(request: Request, error: HTTPException) -> JSONResponse:
        said = {
            400: (explain_unreadable(error.__cause__), "invalid_json"),
            404: (f"there is no {request.method} {request.url.path} here", "not_found"),
            408: (str(error.detail), "timeout"),
            405: (f"{request.url.path} does not take {request.method}", "method_not_allowed"),
            413: ("the body is larger than this server takes", "too_large"),
        }
        message, code = said.get(error.status_code, (str(error.detail), None))
        return ApiError(error.status_code, message, None, code, error.headers).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        known = bodies.get(request.url.path)
        message, param = explain_invalid(error.errors(), known.model_fields if known else ())
        code = "invalid_json" if error.errors()[0]["type"] == "json_invalid" else "invalid_value"
        return ApiError(400, message, param, code).response()

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        return broken().response()
