"""What is wrong with a body, in words: from what pydantic found to a sentence per field.

It knows pydantic's kinds of errors and no HTTP. What is said is short, however much is wrong.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MOST_LINES = 8  # of fields that are wrong
_KINDS = {  # what a value must be, where it is of another kind
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_BOUNDS = {  # what is wrong with it, where its kind is right
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
_WHOLE = ("too_short", "too_long")  # every item is right


def said_of(errors: Sequence[Mapping[str, Any]], known: Iterable[str]) -> tuple[str, str | None]:
    """A line for each field that is wrong, and the first of these fields.

    Args:
        errors: those of a ``ValidationError``, each ``loc`` under ``"body"``.
        known: the names of the fields that there are.

    >>> said_of([{"type": "int_type", "loc": ("body", "n"), "msg": ""}], ())
    ('n must be a whole number', 'n')
    """
    if errors[0]["type"] == "json_invalid":
        why = errors[0].get("ctx", {}).get("error", "")
        return f"the body is not JSON: {why}, at character {errors[0]['loc'][-1]}", None
    fields: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        fields.setdefault(str([*error["loc"], ""][1]), []).append(error)
    names = [*known]
    lines = [_line(field, some, names) for field, some in [*fields.items()][:MOST_LINES]]
    if len(fields) > MOST_LINES:
        lines.append(f"and {len(fields) - MOST_LINES} fields more")
    return "\n".join(lines), next(iter(fields)) or None


def unreadable(why: BaseException | None) -> str:
    """Why a body could not be read as JSON.

    >>> unreadable(RecursionError())
    'the body is nested too deeply to be read'
    """
    if isinstance(why, RecursionError):
        return "the body is nested too deeply to be read"
    if isinstance(why, UnicodeDecodeError):
        return f"the body is not JSON in UTF-8: {why.reason}, at byte {why.start}"
    if isinstance(why, ValueError) and not isinstance(why, json.JSONDecodeError):
        return "a number in the body has too many digits"
    return "the body cannot be read as JSON"


def _line(field: str, errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> str:
    """What is wrong with one field: with the form that comes nearest, of those it may have."""
    nearest = max(map(_progress, errors))
    places: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        if _progress(error) == nearest:
            places.setdefault(_place(error["loc"]), []).append(error)
    return "\n".join(_sentence(place, some, known) for place, some in places.items())


def _sentence(place: str, errors: Sequence[Mapping[str, Any]], known: Sequence[str]) -> str:
    kind, ctx = errors[0]["type"], errors[0].get("ctx", {})
    if kind == "value_error":
        return f"{place}: {ctx['error']}" if place else str(ctx["error"])
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(place, known, n=1) if "." not in place else []
        return f"there is no field {place}" + (f"; did you mean {near[0]}?" if near else "")
    if kind in _BOUNDS:
        numbers = {name: f"{one:g}" if type(one) is float else one for name, one in ctx.items()}
        return f"{place or 'the name of a field'} {_BOUNDS[kind].format(**numbers)}"
    if not place:
        return "the body must be a JSON object, sent as Content-Type: application/json"
    kinds = dict.fromkeys(_KINDS.get(error["type"]) or str(error["msg"]) for error in errors)
    *most, last = kinds
    return f"{place} must be {', '.join(most)}{' or ' if most else ''}{last}"


def _progress(error: Mapping[str, Any]) -> tuple[Any, ...]:
    """How far a form of a field fits: to which place, and whether that is of the right kind."""
    steps = [part if isinstance(part, int) else 0 for part in error["loc"] if not _is_form(part)]
    return [*steps, *([math.inf] if error["type"] in _WHOLE else [])], error["type"] not in _KINDS


def _place(loc: Sequence[Any]) -> str:
    place = ".".join(str(part) for part in loc[1:] if not _is_form(part))
    return f"a name in {place}" if loc[-1] == "[key]" else place


def _is_form(part: Any) -> bool:
    """Whether a part of a place is no place, but pydantic's name for one of a field's forms."""
    return isinstance(part, str) and (part in ("str", "int", "float") or not part.isidentifier())
