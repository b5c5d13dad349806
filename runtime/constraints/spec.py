"""What a constraint is, and the forms that one is given in. Pure data: llguidance is not imported.

The forms are vLLM's ``structured_outputs`` and OpenAI's ``response_format``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError, quoted
from ...grammar import did_you_mean
from .limits import TEXT, ConstraintError, check_size

FIELD = "structured_outputs"
KINDS = ("json", "regex", "choice", "grammar", "json_object")
WHITESPACE = ("disable_any_whitespace", "whitespace_pattern")
_REFUSED = {
    "structural_tag": "write the whole answer as a grammar; %json {…} in it is a schema",
    "disable_additional_properties": 'write "additionalProperties": false in the schema',
    "disable_fallback": "leave it out; llguidance compiles everything",
    "backend": "leave it out; llguidance compiles everything",
}


@dataclass(frozen=True)
class Constraint:
    """What an answer must be.

    Attributes:
        kind: ``"json"``, ``"regex"``, ``"grammar"`` or ``"choice"``.
        text: the schema as canonical JSON, the expression, the grammar (llguidance's Lark), or the
            choices as a JSON list.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}({quoted(self.text)})"


def constraint_of(structured_outputs: Any, what: str = FIELD) -> Constraint | None:
    """The constraint of a request; None where it has none.

    Args:
        structured_outputs: vLLM's form, ``{"json": …}`` with a schema, ``{"regex": "…"}``,
            ``{"choice": ["…"]}``, ``{"grammar": "…"}`` or ``{"json_object": True}``, or an object
            with these attributes. A schema is a mapping, JSON text or a pydantic model.
            ``disable_any_whitespace`` and ``whitespace_pattern`` say what stands between the parts
            of JSON.
        what: the argument or field, for messages.

    Raises:
        ConstraintError: no such form, two at once, or one that is too large.

    >>> constraint_of({"json": {"type": "integer"}})
    Constraint(kind='json', text='{"type":"integer"}')
    """
    if structured_outputs is None or isinstance(structured_outputs, Constraint):
        return structured_outputs
    form = _form(structured_outputs, what)
    for name in form:
        if name in _REFUSED:
            raise ConstraintError(f"{what}.{name} is not known here; {_REFUSED[name]}")
        if name not in (*KINDS, *WHITESPACE):
            cure = did_you_mean(str(name), (*KINDS, *WHITESPACE))
            raise ConstraintError(f"{what} has no key {quoted(name)}; {cure}")
    kinds = [name for name in form if name in KINDS]
    if len(kinds) != 1:
        named = f"{' and '.join(kinds)} are" if kinds else "none is"
        raise ConstraintError(f"{what} holds one of {', '.join(KINDS)}; here {named} given")
    [kind] = kinds
    spaces = {name: form[name] for name in WHITESPACE if name in form}
    if spaces and not kind.startswith("json"):
        raise ConstraintError(f"{what}.{next(iter(spaces))} is for json, and this is {kind}")
    where, value = f"{what}.{kind}", form[kind]
    match kind:
        case "json" | "json_object":
            if kind == "json_object":
                _check_type(where, value, bool, "true")
                value = {"type": "object"}
            return _checked(where, "json", schema_text(value, where, **spaces))
        case "choice":
            return _checked(where, kind, choice_text(value, where))
    _check_type(where, value, str, "text")
    return _checked(where, kind, value)


def constraint_of_format(response_format: Any, what: str = "response_format") -> Constraint | None:
    """The constraint of OpenAI's ``response_format``.

    A schema is enforced as a whole, whatever its ``strict`` says. None for ``{"type": "text"}``.

    Raises:
        ConstraintError: as ``constraint_of``.
    """
    if response_format is None:
        return None
    form = _form(response_format, what)
    kind, schema = form.get("type"), form.get("json_schema")
    if kind not in ("text", "json_object", "json_schema"):
        problem = f"{what}.type is {quoted(kind)}"
        raise ConstraintError(f"{problem}; it is text, json_object or json_schema")
    if more := set(form) - {"type", "json_schema"} or (kind != "json_schema" and schema):
        named = ", ".join(map(str, more)) if isinstance(more, set) else "json_schema"
        raise ConstraintError(f"{what} of type {kind} has no key {named}; leave it out")
    if kind == "text":
        return None
    if kind == "json_object":
        return constraint_of({"json_object": True}, what)
    where = f"{what}.json_schema"
    if not isinstance(schema, Mapping) or not isinstance(schema.get("schema"), Mapping):
        raise ConstraintError(f'{where} is {{"name": "…", "schema": {{…}}}}; it has no schema')
    if unknown := set(schema) - {"name", "schema", "strict", "description"}:
        raise ConstraintError(f"{where} has no key {', '.join(map(str, unknown))}; leave it out")
    return _checked(where, "json", schema_text(schema["schema"], f"{where}.schema"))


def schema_text(
    schema: Any,
    what: str = "schema",
    disable_any_whitespace: bool | None = None,
    whitespace_pattern: str | None = None,
) -> str:
    """A schema as canonical JSON: the order of its keys is that of the answer's properties.

    Args:
        schema: a mapping, JSON text, or a pydantic model (or ``TypeAdapter``).
        what: what it is called in messages.
        disable_any_whitespace: JSON without any between its parts.
        whitespace_pattern: a regular expression of what stands there.

    Raises:
        ConstraintError: no JSON, or no schema.
    """
    for method in ("model_json_schema", "json_schema"):
        if callable(make := getattr(schema, method, None)):
            schema = make()
            break
    if isinstance(schema, str):
        if len(schema) > TEXT:
            problem = f"{what} has {len(schema)} characters"
            raise ConstraintError(f"{problem}; it may have {TEXT}")
        try:
            schema = json.loads(schema, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise ConstraintError(f"{what} is no JSON: {error}") from None
    if schema is True:
        schema = {}
    if not isinstance(schema, Mapping):
        problem = f"{what} is {quoted(schema)}, and a schema is a mapping, or JSON text of one"
        raise ConstraintError(f'{problem}; write {{"type": "object", …}}')
    schema = dict(schema)
    if spaces := _whitespace(what, disable_any_whitespace, whitespace_pattern):
        own = schema.get("x-guidance")
        schema["x-guidance"] = {**(own if isinstance(own, Mapping) else {}), **spaces}
    return _json(what, schema)


def choice_text(choices: Any, what: str = "choice") -> str:
    """Choices as a JSON list.

    Raises:
        ConstraintError: no texts, or none at all.
    """
    several = isinstance(choices, list | tuple) and bool(choices)
    if not several or not all(isinstance(choice, str) for choice in choices):
        raise ConstraintError(f'{what} is {quoted(choices)}; give texts: ["yes", "no"]')
    return _json(what, list(choices))


def _whitespace(what: str, disabled: Any, pattern: Any) -> dict[str, Any]:
    if disabled is not None:
        _check_type(f"{what}: disable_any_whitespace", disabled, bool, "true or false")
    if pattern is not None:
        _check_type(f"{what}: whitespace_pattern", pattern, str, "a regular expression")
        if disabled:
            problem = f"{what} has disable_any_whitespace and whitespace_pattern"
            raise ConstraintError(f"{problem}; give one of them")
        check_size(f"{what}: whitespace_pattern", "regex", pattern)
        return {"whitespace_pattern": pattern}
    return {"whitespace_flexible": False} if disabled else {}


def _form(value: Any, what: str) -> dict[str, Any]:
    """What is given as a mapping, without what is left out: null, or false."""
    if not isinstance(value, Mapping):
        if not hasattr(value, "__dict__") or isinstance(value, type):
            problem = f"{what} is {quoted(value)}"
            raise ConstraintError(f'{problem}; write {{"json": schema}} or {{"regex": "…"}}')
        value = {k: v for k, v in vars(value).items() if not k.startswith("_")}
    return {k: v for k, v in value.items() if v is not None and v is not False}


def _check_type(what: str, value: Any, expected: type, written: str) -> None:
    if not isinstance(value, expected):
        raise ConstraintError(f"{what} is {quoted(value)}; it is {written}")


def _checked(what: str, kind: str, text: str) -> Constraint:
    check_size(what, kind, text)
    return Constraint(kind, text)


def _json(what: str, value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(f"{what} cannot be written as JSON: {error}") from None
    return text


def _no_number(text: str) -> Any:
    raise ArgumentError(f"{text} is no number of JSON")
