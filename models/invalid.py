"""Pydantic's validation errors in plain sentences: what is wrong, where, and what to write.

Used for models' specs, run files, train files and the bodies of requests.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import BaseModel, ValidationError

from .errors import suggestion

Loc = tuple[int | str, ...]
Errors = Sequence[Mapping[str, Any]]
Hint = Callable[[Loc], str]  # what to write instead of an unknown key
_TYPES = {  # what a value of another type must be
    **dict.fromkeys(("string_type",), "text"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "an object"),
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
_UNION_TYPE = re.compile(r"(?:str|int|float|bool|none)$|constrained-|.*[\[\]]")


def explain(error: ValidationError, model: Any, where: str = "") -> str:
    """A validation error of settings, one sentence per mistake.

    Args:
        error: pydantic's.
        model: the class that was validated; its ``HINTS`` are cures of keys that others use.
        where: the path of the value, where it is not the whole file.
    """

    def hint(loc: Loc) -> str:
        owner, key = _model_at(model, loc[:-1]), str(loc[-1])
        fields = getattr(owner, "model_fields", ())
        return str(getattr(owner, "HINTS", {}).get(key) or suggestion(key, fields))

    values: dict[Loc, list[Mapping[str, Any]]] = {}
    for item in error.errors():
        union = next((i for i, part in enumerate(item["loc"]) if _is_type(part)), None)
        values.setdefault(item["loc"][:union], []).append(item)
    lines = [line for errors in values.values() for line in explain_value(errors, hint, "option")]
    return "; ".join(f"{where}{line}" for line in lines)


def explain_value(errors: Errors, hint: Hint, noun: Literal["field", "option"]) -> list[str]:
    """A sentence for each part of one value, by the type of a union that fits best.

    Args:
        errors: pydantic's, of the value.
        hint: a cure for an unknown key.
        noun: what a key is called.
    """
    furthest = max(map(_progress, errors))
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        if _progress(error) == furthest:
            parts.setdefault(_path(error["loc"]), []).append(error)
    return [_sentence(path, own, hint, noun) for path, own in parts.items()]


def _sentence(path: str, errors: Errors, hint: Hint, noun: str) -> str:
    kind, ctx = errors[0]["type"], errors[0].get("ctx", {})
    if kind == "value_error":
        return f"{path}: {ctx['error']}" if path else str(ctx["error"])
    if kind == "extra_forbidden":
        cure = hint(errors[0]["loc"])
        return f"there is no {noun} {path}" + (f"; {cure}" if cure else "")
    if kind in _BOUNDS:
        numbers = {name: f"{x:g}" if type(x) is float else x for name, x in ctx.items()}
        return f"{path or f'the name of a {noun}'} {_BOUNDS[kind].format(**numbers)}"
    *types, last = dict.fromkeys(_TYPES.get(e["type"]) or str(e["msg"]) for e in errors)
    return f"{path} must be {', '.join(types)}{' or ' if types else ''}{last}"


def _progress(error: Mapping[str, Any]) -> tuple[Any, ...]:
    """How far a value fits a type of a union: up to which item, and whether that has the type."""
    steps = [part if isinstance(part, int) else 0 for part in error["loc"] if not _is_type(part)]
    return [*steps, *([math.inf] if error["type"] in _LENGTHS else [])], error["type"] not in _TYPES


def _path(loc: Loc) -> str:
    path = ".".join(str(part) for part in loc if not _is_type(part))
    return f"a name in {path}" if loc and loc[-1] == "[key]" else path


def _is_type(part: int | str) -> bool:
    """Whether a part of a ``loc`` is pydantic's name for a type of a union, or ``[key]``."""
    return isinstance(part, str) and _UNION_TYPE.match(part) is not None


def _model_at(model: Any, path: Iterable[int | str]) -> Any:
    """The class of a (nested) model at a path in its data."""
    for part in path:
        field = getattr(model, "model_fields", {}).get(str(part))  # else a key of a dictionary
        model = field.annotation if field else model
        inner = [item for item in get_args(model) if isinstance(item, type)]
        model = next((item for item in inner if issubclass(item, BaseModel)), model)
    return model
