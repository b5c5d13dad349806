"""Pydantic's errors of a body as a sentence per field, short however much is wrong. No HTTP."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_FIELDS = 8  # that a message names
_TYPES = {  # what a value of another type must be
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_BOUNDS = {  # what is wrong with a value of the right type
    "missing": "is missing",
    "string_unicode": "must be text of whole characters",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must be a list of at least {min_length}",
    "too_long": "must be a list of at most {max_length}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
}
_LENGTHS = ("too_short", "too_long")  # every item is right


def explain_invalid(
    errors: Sequence[Mapping[str, Any]], known: Iterable[str]
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
    fields: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        fields.setdefault(str([*error["loc"], ""][1]), []).append(error)
    names = [*known]
    lines = [_explain_field(each, names) for each in [*fields.values()][:MAX_FIELDS]]
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


def _explain_field(errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> str:
    """A line for each value of one field, by the type of the union that fits best."""
    furthest = max(map(_progress, errors))
    values: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        if _progress(error) == furthest:
            values.setdefault(_path(error["loc"]), []).append(error)
    return "\n".join(_explain_value(path, each, known) for path, each in values.items())


def _explain_value(path: str, errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> str:
    kind, ctx = errors[0]["type"], errors[0].get("ctx", {})
    if kind == "value_error":
        return f"{path}: {ctx['error']}" if path else str(ctx["error"])
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(path, known, n=1) if "." not in path else []
        return f"there is no field {path}" + (f"; did you mean {near[0]}?" if near else "")
    if kind in _BOUNDS:
        numbers = {name: f"{x:g}" if type(x) is float else x for name, x in ctx.items()}
        return f"{path or 'the name of a field'} {_BOUNDS[kind].format(**numbers)}"
    if not path:
        return "the body must be a JSON object, sent as Content-Type: application/json"
    *types, last = dict.fromkeys(_TYPES.get(e["type"]) or str(e["msg"]) for e in errors)
    return f"{path} must be {', '.join(types)}{' or ' if types else ''}{last}"


def _progress(error: Mapping[str, Any]) -> tuple[Any, ...]:
    """How far a value fits a type of a union: up to which item, and whether that has the type."""
    steps = [part if isinstance(part, int) else 0 for part in error["loc"] if not _is_type(part)]
    return [*steps, *([math.inf] if error["type"] in _LENGTHS else [])], error["type"] not in _TYPES


def _path(loc: Sequence[Any]) -> str:
    path = ".".join(str(part) for part in loc[1:] if not _is_type(part))
    return f"a name in {path}" if loc[-1] == "[key]" else path


def _is_type(part: Any) -> bool:
    """Whether a part of a ``loc`` is pydantic's name for a type of a union."""
    return isinstance(part, str) and (part in ("str", "int", "float") or not part.isidentifier())
