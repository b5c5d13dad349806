"""Errors as clients get them, in OpenAI's shape; a line for each field of a body that is wrong."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ...errors import DescantError, short_message, shortened
from ...grammar import FormulaError, did_you_mean
from ...models import ModelError
from ...models.invalid import explain_value
from .messages import InternalError
from .schema import BODIES

_log = logging.getLogger("descant.serve")
MAX_FIELDS = 8  # that a message names
LOGGED = "logged"  # in the state of a request whose bug is in the log
NO_RETRY = {"x-should-retry": "false"}  # the openai client retries 5xx otherwise
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_NO_OBJECT = ("dict_type", "model_type", "model_attributes_type", "missing")


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
        param = None if self.param is None else shortened(self.param)
        message = short_message(self.message)
        info = ErrorInfo(message=message, type=kind, param=param, code=self.code)
        return ErrorResponse(error=info).model_dump()

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers)


def invalid_value(problem: object, param: str | None = None) -> ApiError:
    """A value of the body that cannot be used."""
    return ApiError(400, str(problem), param, "invalid_value")


def wrong_formula(
    error: FormulaError | ModelError, param: str | None = "model", status: int = 400
) -> ApiError:
    """A formula that cannot be compiled, or has failed: NaN, or every token excluded."""
    code = "formula_error" if isinstance(error, FormulaError) else "model_error"
    return ApiError(status, str(error), param, code)


def failed_row(error: Exception) -> ApiError:
    """A row that has failed while it was decoded; the log has what is no message for a client."""
    if isinstance(error, FormulaError | ModelError):
        return wrong_formula(error, None, 422)
    if isinstance(error, DescantError):
        return ApiError(422, str(error), None, "invalid_value")
    return server_error(error.id) if isinstance(error, InternalError) else bug(error, "a row")


def unknown_model(name: str, known: Iterable[str], kind: str = "model") -> ApiError:
    """A name that the run file does not declare."""
    cure = did_you_mean(name[:100], known) or "the run file declares none"
    return ApiError(404, f"there is no {kind} {name[:100]!r}; {cure}", "model", "model_not_found")


def unavailable(reason: str = "the server is shutting down") -> ApiError:
    """The server takes no requests, or has aborted this one."""
    return ApiError(503, reason, None, "unavailable")


def server_error(id: str) -> ApiError:
    """A failure that is not the request's fault; the log has its cause under the same id."""
    message = f"the server failed; its log says why, with the id {id}"
    return ApiError(500, message, None, "server_error", NO_RETRY)


def bug(error: BaseException, where: str) -> ApiError:
    """Log what no client can do anything about, with its trace and the id that the client gets."""
    id = error.id if isinstance(error, InternalError) else uuid.uuid4().hex
    _log.error("%s: a bug in descant, id %s", where, id, exc_info=error)
    return server_error(id)


def add_error_handlers(app: FastAPI) -> None:
    """Answer every error of the application in OpenAI's shape."""

    async def respond(request: Request, error: Exception) -> JSONResponse:
        return _api_error(error, request.method, request.url.path).response()

    async def respond_to_bug(request: Request, error: Exception) -> JSONResponse:
        request.scope["state"][LOGGED] = True
        return bug(error, f"{request.method} {request.url.path}").response()

    for kind in (ApiError, DescantError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, respond)
    app.add_exception_handler(Exception, respond_to_bug)


def _api_error(error: Exception, method: str, path: str) -> ApiError:
    match error:
        case ApiError():
            return error
        case FormulaError() | ModelError():
            return wrong_formula(error)
        case DescantError():
            return invalid_value(error)
        case RequestValidationError():
            fields = BODIES[path].model_fields if path in BODIES else ()
            message, param = explain_invalid(error.errors(), fields)
            is_json = error.errors()[0]["type"] != "json_invalid"
            return ApiError(400, message, param, "invalid_value" if is_json else "invalid_json")
        case HTTPException():
            message, code = {
                400: (explain_unreadable(error.__cause__), "invalid_json"),
                404: (f"there is no {method} {path} here", "not_found"),
                405: (f"{path} does not take {method}", "method_not_allowed"),
                408: (error.detail, "timeout"),
                413: ("the body is larger than this server takes", "too_large"),
            }.get(error.status_code, (error.detail, None))
            return ApiError(error.status_code, message, None, code, error.headers)
    raise error


def explain_invalid(
    errors: Sequence[Mapping[str, Any]], known: Collection[str]
) -> tuple[str, str | None]:
    """A line for each field that is wrong, and the name of the first.

    Args:
        errors: those of a ``ValidationError``, each ``loc`` under ``"body"``.
        known: the names of the body's fields.

    >>> explain_invalid([{"type": "int_type", "loc": ("body", "n"), "msg": ""}], ())
    ('n must be a whole number', 'n')
    """
    if errors[0]["type"] == "json_invalid":
        reason = errors[0].get("ctx", {}).get("error", "")
        return f"the body is not JSON: {reason}, at character {errors[0]['loc'][-1]}", None
    if len(errors[0]["loc"]) == 1 and errors[0]["type"] in _NO_OBJECT:
        return "the body must be a JSON object, sent as Content-Type: application/json", None
    fields: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        loc = error["loc"][1:]
        fields.setdefault(str([*loc, ""][0]), []).append({**error, "loc": loc})

    def hint(loc: Sequence[int | str]) -> str:
        return did_you_mean(str(loc[0]), known) if len(loc) == 1 else ""

    named = [*fields.values()][:MAX_FIELDS]
    lines = [line for own in named for line in explain_value(own, hint, "field")]
    if len(fields) > MAX_FIELDS:
        lines.append(f"and {len(fields) - MAX_FIELDS} fields more")
    return "\n".join(lines), next(iter(fields)) or None


def explain_unreadable(error: BaseException | None) -> str:
    """Why a body could not be read as JSON.

    >>> explain_unreadable(RecursionError())
    'the body is nested too deeply to be read'
    """
    if isinstance(error, RecursionError):
        return "the body is nested too deeply to be read"
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not JSON in UTF-8: {error.reason}, at byte {error.start}"
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return "a number in the body has too many digits"
    return "the body cannot be read as JSON"
