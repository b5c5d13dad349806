"""Constraints compiled for a vocabulary, once each."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from ...errors import ArgumentError
from .spec import Constraint
from .tokens import ConstraintTokens, library

# Every token that keeps to the grammar is allowed, and not only those that spell it best.
_EXACT = '%llguidance {"no_forcing": true}\n'


class ConstraintError(ArgumentError):
    """A constraint that cannot be compiled."""


def compiled(constraint: Constraint, tokens: ConstraintTokens) -> Any:
    """A fresh ``llguidance.LLMatcher`` at the beginning of an answer.

    Raises:
        ConstraintError: it is no grammar, expression or schema.
    """
    return _compiled(constraint, tokens).deep_copy()


@lru_cache(maxsize=256)
def _compiled(constraint: Constraint, tokens: ConstraintTokens) -> Any:
    llguidance = library()
    lark = llguidance.LLMatcher.grammar_from_lark(_lark(constraint))
    matcher = llguidance.LLMatcher(tokens.tokenizer, lark, log_level=0)
    if matcher.is_error():
        raise ConstraintError(next(iter(matcher.get_error().splitlines()), "it does not compile"))
    return matcher


def _lark(constraint: Constraint) -> str:
    match constraint.kind:
        case "json":
            return f"{_EXACT}start: %json {constraint.text}\n"
        case "regex":
            expression = constraint.text.replace("/", "\\/").replace("\n", "\\n")
            return f"{_EXACT}start: /{expression}/\n"
        case "choice":
            options = " | ".join(map(json.dumps, json.loads(constraint.text)))
            return f"{_EXACT}start: {options}\n"
    return _EXACT + constraint.text
