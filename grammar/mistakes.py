"""Errors for a token that cannot stand where it stands: what is wrong, and what to write instead.

The parser gives only the token that it could not take. The functions of ``_CASES`` check it and its
neighbours, from the most particular mistake to the most general; the first that matches words the
error. This file must not decide what is a formula; the grammar does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from .errors import FormulaError
from .stop import AROUND_COMPARISON, BINARY, COMPARISONS, OPERANDS, SEPARATORS, Stop

if TYPE_CHECKING:
    from lark import Token

# What is wrong, the first and the last token that show it, and the cure.
Mistake: TypeAlias = tuple[str, int, int, str]

_MODEL_NAME = "names have only letters, digits and underscores, and start with no digit"
_IDS = "write 50256: -100"
_STAGE = "write a stage after |, such as top_k(10)"
_COMPARE = "compare with < <= > >="
_DOUBLED = {
    "||": ("a formula has no operator ||", "write | for then, or or between two conditions"),
    "//": ("a formula has no operator //", "write / to divide"),
    "=<": ("a formula has no operator =<", "write <="),
    "=>": ("a formula has no operator =>", "write >="),
    **{op: (f"a formula cannot compare with {op}", _COMPARE) for op in ("==", "<>")},
    "<<": ("a formula has no operator <<", "write <"),
    ">>": ("a formula has no operator >>", "write >"),
    "->": ("a formula has no operator ->", "write | for then"),
    "|>": ("a formula has no operator |>", "write | for then"),
    ":=": ("a formula assigns nothing", "write = inside a call, as in top_k(k=10)"),
    **{f"{op}=": ("a formula assigns nothing", f"write {op} alone") for op in "+-*/"},
}
_WORDS = {
    "lambda": ("a formula defines no functions", "write the expression itself"),
    **{w: (f"a formula has no {w}", "write where(condition, x, y)") for w in ("if", "else")},
    "for": ("a formula has no loops", "write every term"),
    **{
        word: ("the operator is written in small letters", f"write {word.lower()}")
        for word in ("AND", "OR", "NOT", "Not")
    },
}
_NOTHING_BEFORE: dict[tuple[str, str], Mistake] = {  # by the token before and the token; * is any
    (":", "*"): ("this weight has nothing after it", -1, -1, "write what it weighs"),
    ("*", ":"): ("this weight is missing", 0, 0, "write it, as in 0.5: base"),
    ("*", "="): ("= has no name on its left", 0, 0, "write a name, as in k=10"),
    (",", ","): ("this comma is followed by another comma", -1, -1, "remove the comma"),
    (",", ")"): ("this comma is followed by a closing parenthesis", -1, -1, "remove the comma"),
    (",", ""): ("a comma belongs inside parentheses", -1, -1, "remove it"),
    ("*", ","): ("this comma has nothing before it", 0, 0, "remove it"),
    ("(", ")"): ("these parentheses are empty", -1, 0, "write a value in them"),
}


def bad_token(formula: str, tokens: Sequence[Token], index: int) -> FormulaError:
    """The error for the token at ``index``, or for the end of the formula, that cannot be there."""
    stop = Stop(formula, tokens, index)
    for case in _CASES:
        if mistake := case(stop):
            return stop.error(*mistake)
    word = stop.word(0) or "the end of the formula"
    return stop.error(f"{word} cannot stand here", 0, 0, "see the language reference")


def _doubled(stop: Stop) -> Mistake | None:
    """Two symbols that are one operator elsewhere, such as || and ==."""
    for first in (-1, 0):
        pair = stop.word(first) + stop.word(first + 1)
        if pair in _DOUBLED and stop.touching(first):
            return _DOUBLED[pair][0], first, first + 1, _DOUBLED[pair][1]
    return None


def _glued(stop: Stop) -> Mistake | None:
    """Two words with no space between them, such as 7b, llama3.1, 1.2.3 and f"…"."""
    if not stop.touching(-1):
        return None
    before, word = stop.shown(-1), stop.shown(0)
    match stop.kind(-1), stop.kind(0):
        case "NUMBER", "NAME" if not word.strip("_0123456789"):
            cure = f"write {before}{word}".replace("_", "")
            return "a number has no _ in it", -1, 0, cure
        case "NUMBER", "NAME":
            cure = f"declare a model under another name, or write {before}*{word} to multiply"
            return f"{before}{word} is not a name: {_MODEL_NAME}", -1, 0, cure
        case "NUMBER", "NUMBER":
            return f"{before}{word} is not a number", -1, 0, "write one decimal point"
        case "NAME", "NUMBER":
            cure = f"declare it under another name, such as {before}{word.replace('.', '_')}"
            return f"{before}{word} is not a name: {_MODEL_NAME}", -1, 0, cure
        case "NAME", "STRING":
            cure = "write the string alone, or @ before it if it is a prompt"
            return f"a string takes no prefix such as {before}", -1, 0, cure
    return None


def _borrowed(stop: Stop) -> Mistake | None:
    """A word that other languages have, such as lambda and if."""
    if stop.finished and (stop.kind(0) in OPERANDS or stop.word(0) == "("):
        for offset in (-1, 0):
            if stop.kind(offset) == "NAME" and stop.word(offset) in _WORDS:
                problem, cure = _WORDS[stop.word(offset)]
                return problem, offset, offset, cure
    return None


def _at_or_bar(stop: Stop) -> Mistake | None:
    """An @ without its model or without its prompt; no stage after |."""
    match stop.word(-1), stop.word(0):
        case "@", _:
            cure = 'write a declared prompt, none, or a quoted string, as in base@"Be kind."'
            return "@ has no prompt on its right", -1, -1, cure
        case _, "@" if stop.word(-2) == "@" and stop.finished:
            return "a model takes one prompt", 0, 0, "remove one of the two"
        case _, word if stop.kind(-1) == "NOIMAGE" and word.startswith("@"):
            return "@noimage comes last", -1, -1, "write the prompt before it: chat@child@noimage"
        case _, "@":
            cure = "write one model's name before it, as in base@child"
            return "@ has no model's name on its left", 0, 0, cure
        case "|", "" | ")" | "]" | "," | "|" | ":" | ";" | "=":
            return "| has no stage on its right", -1, -1, _STAGE
        case "|", word:
            what = {"NUMBER": "a number", "STRING": "a string"}.get(stop.kind(0), word)
            return f"after | comes a stage, not {what}", 0, 0, _STAGE
    return None


def _bracket(stop: Stop) -> Mistake | None:
    """A [ that follows no model's name, or has nothing in it."""
    match stop.word(-1), stop.word(0):
        case "[", "]":
            return "nothing is added in these brackets", -1, 0, "write what, as in base[0.5*arm]"
        case _, "[" if stop.word(-2) == "@":
            cure = f"write the brackets before @: {stop.shown(-3)}[…]@{stop.shown(-1)}"
            return "what is added comes before the prompt", 0, 0, cure
        case "]", "[":
            return "a model has one pair of brackets", 0, 0, "write one sum: base[0.5*arm + honest]"
        case _, "[":
            cure = "a model's name comes before it, as in base[0.5*arm]; no value can be indexed"
            return "[ has no model's name on its left", 0, 0, cure
    return None


def _next_operator(stop: Stop) -> Mistake | None:
    """An operator after a stage, which takes only | after it; a second comparison in a row."""
    operator, first = stop.word(0), stop.back_to(COMPARISONS)
    if operator not in BINARY or not stop.finished:
        return None
    if stop.after_stage:
        before = stop.source(stop.start(SEPARATORS), -1)
        cure = "put the formula up to here in parentheses"
        if len(before) <= 60:
            cure = f"write ({before}) {operator} …"
        return f"{operator} cannot follow a stage", 0, 0, cure
    if operator not in COMPARISONS or first is None:
        return None
    start, end = stop.start(AROUND_COMPARISON), stop.comparison_end()
    cure = "join two comparisons with and"
    if end > 0:
        middle = stop.source(first + 1, -1)
        left, right = f"{stop.source(start, first)} {middle}", stop.source(0, end)
        if len(left) + len(middle) + len(right) <= 80:
            cure = f"write {left} and {middle} {right}"
    return "a comparison cannot be followed by another", start, max(end, 0), cure


def _brace(stop: Stop) -> Mistake | None:
    """Braces that are no value, or hold something other than token ids with numbers."""
    word, problem = stop.word(0), "braces hold token ids, each with a number"
    if word == "{" and not stop.in_braces:
        return problem, 0, 0, "write them as an argument, as in logit_bias({50256: -100})"
    if not stop.in_braces:
        return None
    entry = [stop.word(at) for at in range(stop.start((",",)), 0)]
    if ":" in entry and word != ":":
        return None
    cure = "write a parameter as its bare name" if stop.kind(0) == "NAME" else _IDS
    return problem, -(word == "}" and not entry), 0, cure


def _semicolon(stop: Stop) -> Mistake | None:
    """A ; that does not come directly before the first weighted argument."""
    cure = "write a comma, or ; directly before the first weighted argument: pmean(p; w: x)"
    match stop.word(-1), stop.word(0):
        case _, ";" if not stop.in_call:
            return "; belongs only inside a call", 0, 0, "remove it"
        case "(", ";":
            return "; has no argument on its left", 0, 0, "remove it"
        case _, ";":
            return "; comes once, before the first weighted argument", 0, 0, cure
    semicolon = stop.back_to((";",))
    unweighted = stop.word(0) in (")", ",", "=", "|") or not stop.finished
    if semicolon is None or stop.back_to((":",)) is not None or not unweighted:
        return None
    return "; comes only before an argument with a weight", semicolon, semicolon, cure


def _operand(stop: Stop) -> Mistake | None:
    """Nothing before or after an operator, before a separator, or between two values."""
    before, word = stop.word(-1), stop.word(0)
    if before in BINARY or before == "not":
        if word == "not":
            cure = "put not and its condition in parentheses"
            return f"not cannot follow {before} directly", 0, 0, cure
        if word in BINARY:
            cure = "remove one, or write what belongs between them"
            return f"{before} is followed by {word}", -1, 0, cure
        return f"{before} has nothing on its right", -1, -1, "write what it works on"
    if stop.finished:
        if stop.kind(0) not in OPERANDS and word not in ("(", "not"):
            return None
        missing, cure = "an operator", "write one, such as + or *"
        if stop.in_call:
            missing, cure = "a comma or an operator", "write a comma between two arguments"
        return f"{missing} is missing between {stop.shown(-1)} and {stop.shown(0)}", -1, 0, cure
    if word in BINARY:
        return f"{word} has nothing on its left", 0, 0, "write what it works on"
    if before == "=":
        name = stop.shown(-2)
        return f"{name} has no value", -2, -1, f"write one after =, as in {name}=1"
    pairs = ((before, word), (before, "*"), ("*", word))
    return next((_NOTHING_BEFORE[pair] for pair in pairs if pair in _NOTHING_BEFORE), None)


def _separator(stop: Stop) -> Mistake | None:
    """A separator that belongs inside a call, or in another part of it."""
    word, item = stop.word(0), stop.start(SEPARATORS)
    if word in ("=", ":") and stop.in_call and stop.word(item - 1) in ("=", ":"):
        return "an argument has one name or one weight", 0, 0, "remove one"
    match word:
        case ",":
            return "a comma belongs inside parentheses", 0, 0, "write one formula"
        case "=" if stop.index == 1 and stop.kind(-1) == "NAME":
            cure = "write only what stands on the right of ="
            return "a formula has no name of its own", -1, 0, cure
        case "=" if stop.in_call:
            return "only a name can stand on the left of =", item, -1, "write a name, as in k=10"
        case "=":
            cure = "name an argument inside a call, as in top_k(k=10)"
            return "= belongs only inside a call", 0, 0, cure
        case ":" if not stop.in_call:
            cure = "write it in a call, as in mix(0.5: x, 0.5: y)"
            return "a weight belongs only inside a call", 0, 0, cure
        case ":" if stop.after_stage:
            return "a weight has no stages", item, -1, "write a scalar as the weight"
    return None


_CASES = (
    _doubled,
    _glued,
    _borrowed,
    _bracket,
    _at_or_bar,
    _next_operator,
    _brace,
    _semicolon,
    _operand,
    _separator,
)
