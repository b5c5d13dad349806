"""How large a constraint may be. Strangers send them to a server, and llguidance is not bounded.

Measured with llguidance 1.9: its fuel bounds most of what it does, but rules or references that
lead through thousands of others overflow its stack, which ends the process; ``multipleOf`` takes
time and memory by the square of its number; ``a{1000000}`` takes a third of a second for one token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from ...errors import ArgumentError, quoted

TEXT = 65_536  # characters of a schema, a grammar, or all choices
EXPRESSION = 16_384  # characters of a regular expression
DEPTH = 64  # brackets, or values of a schema, inside each other
VALUES = 10_000  # in a schema: objects, lists, texts, numbers
CHOICES = 4_096
REFERENCES = 512  # of a schema; rules of a grammar
REPEATS = 10_000  # of one part of an expression or a grammar
MULTIPLE = 10_000  # of multipleOf
SECONDS = 2.0  # to compile one in a server
MEMORY = 1 << 30  # bytes that compiling takes there
PARSER = {  # llguidance's own, for each token: about 10 ms, and 50 MB, at most
    "initial_lexer_fuel": 500_000, "step_lexer_fuel": 100_000, "max_lexer_states": 50_000,
    "max_grammar_size": 100_000,
}  # fmt: skip

_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DATA = ("enum", "const", "default", "examples")
# Possessive: what has matched is not given back, so that a text is read once.
_BOUNDS = re.compile(r"\{\s*+(\d*+)\s*+(?:,\s*+(\d*+)\s*+)?\}")
_MULTIPLES = re.compile(r'"multipleOf"\s*+:\s*+(\d++)')
_RULES = re.compile(r"^[ \t]*+[?!]?\w++(?:\.-?\d++)?\s*+(?:\[[^\]\n]*+\])?\s*+:", re.MULTILINE)


class ConstraintError(ArgumentError):
    """A constraint that cannot be compiled, or is too large, and what to write instead."""


def check_size(what: str, kind: str, text: str) -> None:
    """Refuse a constraint that is larger than the limits.

    Args:
        what: what it is called in the message.
        kind, text: those of ``Constraint``.

    Raises:
        ConstraintError: it is too large, too deep, or repeats too much; or refers to another file.
    """
    most = EXPRESSION if kind == "regex" else TEXT
    if len(text) > most:
        raise ConstraintError(f"{what} has {len(text)} characters; it may have {most}")
    if kind == "json":
        _check_schema(what, json.loads(text))
    elif kind == "choice":
        if (count := len(json.loads(text))) > CHOICES:
            raise ConstraintError(f"{what} has {count} choices; it may have {CHOICES}")
    else:
        _check_expression(what, text)
        if kind == "grammar":
            _check_grammar(what, text)


def _check_schema(what: str, schema: Any) -> None:
    values = references = 0
    for key, value, depth in _keywords(schema):
        if depth > DEPTH:
            raise ConstraintError(f"{what} is nested more than {DEPTH} deep")
        if (values := values + 1) > VALUES:
            raise ConstraintError(f"{what} has more than {VALUES} values")
        if key == "$ref" and isinstance(value, str):
            references += 1
            if not value.startswith("#"):
                problem = f"{what} refers to {quoted(value)}, and nothing is fetched"
                raise ConstraintError(f'{problem}; declare it under $defs: "#/$defs/name"')
            if references > REFERENCES:
                raise ConstraintError(f"{what} has more than {REFERENCES} references")
        elif key == "pattern" and isinstance(value, str):
            _check_expression(f"{what}: pattern", value)
        elif key == "patternProperties" and isinstance(value, dict):
            for pattern in value:
                _check_expression(f"{what}: patternProperties", pattern)
        elif key == "multipleOf" and isinstance(value, int | float) and abs(value) > MULTIPLE:
            raise ConstraintError(f"{what}: multipleOf is {value}; it is at most {MULTIPLE}")


def _keywords(schema: Any) -> Iterator[tuple[str, Any, int]]:
    """Every value in a schema with its keyword, or "" where it has none, and its depth."""
    pending = [("", schema, 1, True)]  # whether it is a schema, and no name's or data
    while pending:
        key, value, depth, keywords = pending.pop()
        yield key, value, depth
        if depth > DEPTH:
            return
        if isinstance(value, dict):
            for name, inner in value.items():
                own = name if keywords and key not in _NAMED else ""
                # What stands under a name of properties is a schema again.
                pending.append((own, inner, depth + 1, keywords and own not in _DATA))
        elif isinstance(value, list):
            pending += [("", inner, depth + 1, keywords) for inner in value]


def _check_expression(what: str, text: str) -> None:
    depth = 0
    for position, character in enumerate(text):
        if position and text[position - 1] == "\\":
            continue
        if character in "([":
            depth += 1
        elif character in ")]":
            depth = max(0, depth - 1)
        if depth > DEPTH:
            raise ConstraintError(f"{what} has more than {DEPTH} brackets inside each other")
    for bounds in _BOUNDS.findall(text):
        for bound in filter(None, bounds):
            if len(bound) > 9 or int(bound) > REPEATS:
                problem = f"{what} repeats a part {bound[:20]} times"
                raise ConstraintError(f"{problem}; it may be {REPEATS} times")


def _check_grammar(what: str, text: str) -> None:
    if "::=" in text:
        problem = f"{what} is in GBNF or EBNF, and llguidance reads Lark's form"
        cure = "llguidance.gbnf_to_lark.any_to_lark converts it"
        raise ConstraintError(f"{problem}; {cure}")
    if (rules := len(_RULES.findall(text))) > REFERENCES:
        raise ConstraintError(f"{what} has {rules} rules; it may have {REFERENCES}")
    for number in _MULTIPLES.findall(text):
        if len(number) > 9 or int(number) > MULTIPLE:
            problem = f"{what}: multipleOf is {number[:20]}"
            raise ConstraintError(f"{problem}; it is at most {MULTIPLE}")
