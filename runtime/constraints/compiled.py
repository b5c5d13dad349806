"""Constraints compiled by llguidance, once for all their requests.

The copies of a compiled constraint share what its lexer has found out: later ones are faster.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from threading import Lock
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from ...models.errors import first_line
from .limits import PARSER, ConstraintError, check_size
from .spec import Constraint

COMPILED, CHARACTERS = 128, 1 << 21  # that are kept for one vocabulary, and of all their texts
# A space, or a line break and the indentation after it: a model cannot go on with them for ever.
WHITESPACE = r" |\n[ \t]{0,20}"
_EVERY_SPELLING = '\n%llguidance {"no_forcing": true}\n'  # not only the tokenizer's own
_EMPTY = "NoExtension"  # llguidance's reason where nothing fits
_CURES = (
    ("oneOf", "write anyOf, whose branches may both hold"),
    ("Unimplemented", 'leave them out, or write "x-guidance": {"lenient": true} to ignore them'),
    ("Unknown format", "write a pattern instead, or leave the format out"),
    ("look-around", "llguidance's expressions look neither ahead nor back; write it without"),
    ("too large|too big|fuel|too many", "make it smaller: fewer repetitions and alternatives"),
    ("circular", "let a reference stand alone, or under properties or items"),
    ("not disjoint", "write patterns of which no key fits two"),
)


class Tokens(Protocol):
    """A vocabulary, as llguidance knows it: ``ConstraintTokens``."""

    @property
    def tokenizer(self) -> Any:
        """The ``llguidance.LLTokenizer``."""


class _Cache:
    """The compiled constraints of one vocabulary, the least recently used first."""

    def __init__(self) -> None:
        self._matchers: OrderedDict[Constraint, Any] = OrderedDict()
        self._characters = 0

    def get(self, constraint: Constraint) -> Any:
        """A compiled constraint, or None."""
        if constraint in self._matchers:
            self._matchers.move_to_end(constraint)
        return self._matchers.get(constraint)

    def put(self, constraint: Constraint, matcher: Any) -> None:
        """Keep one that is not kept yet, and forget others where there are too many."""
        self._matchers[constraint] = matcher
        self._characters += len(constraint.text)
        while len(self._matchers) > COMPILED or self._characters > CHARACTERS:
            oldest, _ = self._matchers.popitem(last=False)
            self._characters -= len(oldest.text)


_caches: WeakKeyDictionary[Any, _Cache] = WeakKeyDictionary()
_reading, _compiling = Lock(), Lock()  # who finds one compiled does not wait for another


def compiled(constraint: Constraint, tokens: Tokens) -> Any:
    """A matcher of llguidance at the beginning of an answer.

    Args:
        constraint: what the answer must be.
        tokens: the vocabulary.

    Returns:
        A fresh ``llguidance.LLMatcher``.

    Raises:
        ConstraintError: it is too large, cannot be compiled, or no answer fits it.
        ImportError: llguidance is not installed.
    """
    if (matcher := _known(constraint, tokens)) is None:
        with _compiling:  # one at a time
            if (matcher := _known(constraint, tokens)) is None:
                matcher = compile_constraint(constraint, tokens.tokenizer)
                with _reading:
                    _caches.setdefault(tokens, _Cache()).put(constraint, matcher)
    return matcher.deep_copy()


def is_compiled(constraint: Constraint, tokens: Tokens) -> bool:
    """Whether ``compiled`` would return at once."""
    return _known(constraint, tokens) is not None


def _known(constraint: Constraint, tokens: Tokens) -> Any:
    with _reading:
        return _caches.setdefault(tokens, _Cache()).get(constraint)


def compile_constraint(constraint: Constraint, tokenizer: Any) -> Any:
    """Compile a constraint for an ``LLTokenizer``, past the cache; errors as ``compiled``."""
    from llguidance import LLMatcher, LLParserLimits

    check_size(constraint.kind, constraint.kind, constraint.text)
    limits = LLParserLimits(verbose_errors=False, **PARSER)
    grammar = LLMatcher.grammar_from_lark(grammar_of(constraint))
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()  # an empty language shows here, and the first token's is ready
    if matcher.is_error():
        raise _refused(constraint, matcher.get_error())
    return matcher


def grammar_of(constraint: Constraint) -> str:
    """The constraint as a grammar in llguidance's Lark."""
    from llguidance import regex_to_lark

    match constraint.kind:
        case "json":
            schema = json.loads(constraint.text)
            if isinstance(schema, bool):
                schema = {} if schema else {"anyOf": []}
            own = schema.get("x-guidance", {})
            if "whitespace_flexible" not in own:
                own = {"whitespace_pattern": WHITESPACE, **own}
            body = f"start: %json {json.dumps({**schema, 'x-guidance': own})}\n"
        case "regex":
            body = f"start: /{regex_to_lark(constraint.text, '')}/\n"
        case "choice":
            choices = "|".join(map(re.escape, json.loads(constraint.text)))
            body = f"start: /{regex_to_lark(choices, '')}/\n"
        case _:
            body = constraint.text
    return body + _EVERY_SPELLING  # at the end, so that lines keep their numbers


def _refused(constraint: Constraint, message: str) -> ConstraintError:
    kind = "the schema" if constraint.kind == "json" else f"the {constraint.kind}"
    if message.startswith(_EMPTY):
        return ConstraintError(f"no answer fits {kind}; loosen it")
    # Of an expression, what is wrong with it follows a drawing of the place.
    told = message.replace("failed to compile JSON schema: ", "")
    if constraint.kind != "grammar":
        told = re.sub(r"^at \d+\(\d+\): ", "", told)
    reason = first_line(Exception(told.removesuffix("<non-verbose/>"))).rstrip(":")
    if inner := re.search(r"^ *error: (.+)$", message, re.MULTILINE):
        reason = inner[1]
    cure = next((cure for word, cure in _CURES if re.search(word, message)), "")
    return ConstraintError(f"{kind} cannot be compiled: {reason}" + (f"; {cure}" if cure else ""))
