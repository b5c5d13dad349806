"""Tools that a chat's model may call, and the calls in its messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidatorFunctionWrapHandler, WrapValidator

from ....runtime.constraints.limits import ConstraintError
from ....runtime.constraints.spec import Constraint, constraint_of
from .fields import Body

MAX_TOOLS = 128
MAX_CALLS = 128  # of a message
SIZE = 1 << 17  # characters of all tools
DEPTH = 64  # of what a schema holds
NAME = r"^[a-zA-Z0-9_.-]{1,64}$"
Name = Annotated[str, Field(pattern=NAME)]


def shallow(value: Any) -> Any:
    """Refuse what is nested too deeply for a template to write."""
    todo = [(value, 0)]
    while todo:
        each, depth = todo.pop()
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")
        if isinstance(each, dict | list):
            inner = each.values() if isinstance(each, dict) else each
            todo += [(item, depth + 1) for item in inner]
    return value


def _of_object(value: Any) -> Any:
    kind = value.get("type", "object") if isinstance(value, dict) else None
    if value is not None and kind != "object":
        raise ValueError("arguments are an object; its schema's type is object")
    return value


class FunctionDefinition(Body):
    """A function, by the JSON schema of its arguments."""

    name: Name
    description: str | None = None
    parameters: Annotated[
        dict[str, Any] | None, AfterValidator(shallow), AfterValidator(_of_object)
    ] = None
    strict: bool | None = None


class Tool(Body):
    """What a model may call."""

    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Body):
    """A function by its name."""

    name: Name


class NamedTool(Body):
    """The function that is to be called."""

    type: Literal["function"]
    function: FunctionName


class CalledFunction(Body):
    """The name of a function, and its arguments as JSON text."""

    name: Name
    arguments: Annotated[str, Field(max_length=SIZE)]


class ToolCall(Body):
    """A call in an assistant's message."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction


def _few(tools: list[Tool]) -> list[Tool]:
    size = sum(len(json.dumps(tool.model_dump())) for tool in tools)
    if size > SIZE:
        raise ValueError(f"they have {size} characters; they may have {SIZE}")
    names = [tool.function.name for tool in tools]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two of them are called {twice}")
    return tools


def _as_sent(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """What was sent, once it is checked: templates write it in the order of its keys."""
    check(value)
    return value


Tools = Annotated[
    list[Tool],
    Field(max_length=MAX_TOOLS, fail_fast=True),
    AfterValidator(_few),
    WrapValidator(_as_sent),
]
Choice = Literal["none", "auto", "required"] | NamedTool
Calls = Annotated[list[ToolCall], Field(max_length=MAX_CALLS, fail_fast=True)]


def forced_constraint(
    tools: Sequence[Mapping[str, Any]], choice: str | NamedTool, parallel: bool
) -> Constraint | None:
    """What an answer is that has to be a call; None where it may be none.

    For a named function it is its arguments; else a list of ``{"name", "parameters"}``.

    Raises:
        ConstraintError: a schema that is none, or too large.
    """
    if choice in ("none", "auto"):
        return None
    functions = [tool["function"] for tool in tools]
    schemas = {each["name"]: _schema(each.get("parameters")) for each in functions}
    if isinstance(choice, NamedTool):
        return constraint_of({"json": schemas[choice.function.name]}, "tools")
    shared: dict[str, dict[str, Any]] = {"$defs": {}, "definitions": {}}
    for name, schema in schemas.items():
        for key, known in shared.items():
            own = schema.pop(key, {})
            if not isinstance(own, Mapping):
                raise ConstraintError(f"tools: {key} of {name} is no object of schemas")
            for term, definition in own.items():
                if known.setdefault(term, definition) != definition:
                    problem = f"tools: {key} of {name} has another {term} than a tool before it"
                    raise ConstraintError(f"{problem}; give it another name")
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "parameters": schema},
            "required": ["name", "parameters"],
            "additionalProperties": False,
        }
        for name, schema in schemas.items()
    ]
    listed = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    most = {} if parallel else {"maxItems": 1}
    definitions = {key: known for key, known in shared.items() if known}
    return constraint_of({"json": {**listed, **most, **definitions}}, "tools")


def _schema(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """A schema of arguments; a function without one takes none, as OpenAI has it."""
    if parameters is None:
        return {"type": "object", "additionalProperties": False}
    return {"type": "object", **parameters}
