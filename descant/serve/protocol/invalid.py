"""What is wrong with a body, a sentence per field and short however much is wrong. No HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...grammar import did_you_mean
from ...models.invalid import explain_value

MAX_FIELDS = 8  # that a message names
_NO_OBJECT = ("dict_type", "model_type", "model_attributes_type")


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
    if len(errors[0]["loc"]) == 1 and errors[0]["type"] in (*_NO_OBJECT, "missing"):
        return "the body must be a JSON object, sent as Content-Type: application/json", None
    fields: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        loc = error["loc"][1:]
        fields.setdefault(str([*loc, ""][0]), []).append({**error, "loc": loc})
    names = [*known]

    def hint(loc: Sequence[int | str]) -> str:
        return did_you_mean(str(loc[0]), names) if len(loc) == 1 else ""

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
