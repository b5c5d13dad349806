"""What to say about a token that cannot stand where it stands, and what to write instead.

The parser only says which token it could not take. The functions of ``_CASES`` look at it and its
neighbours, from the most particular mistake to the most general, and the first that knows the
mistake words it. This file must not decide what is a formula; the grammar has done that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import FormulaError
from .place import BINARY, COMPARISONS, Place

if TYPE_CHECKING:
    from lark import Token

_MODEL_NAME = "names have only letters, digits and underscores, and start with no digit"
_STAGE = "write a stage after |, such as top_k(10)"
_COMPARE = "compare with < <= > >="
_DOUBLED = {
    "||": ("a formula has no operator ||", "write | for then, or or between two conditions"),
    "==": ("a formula cannot compare with ==", _COMPARE),
    "//": ("a formula has no operator //", "write / to divide"),
    "=<": ("a formula has no operator =<", "write <="),
    "=>": ("a formula has no operator =>", "write >="),
    "<>": ("a formula cannot compare with <>", _COMPARE),
    "<<": ("a formula has no operator <<", "write <"),
    ">>": ("a formula has no operator >>", "write >"),
    "->": ("a formula has no operator ->", "write | for then"),
    "|>": ("a formula has no operator |>", "write | for then"),
    ":=": ("a formula assigns nothing", "write = inside a call, as in top_k(k=10)"),
    "+=": ("a formula assigns nothing", "write + alone"),
    "-=": ("a formula assigns nothing", "write - alone"),
    "*=": ("a formula assigns nothing", "write * alone"),
    "/=": ("a formula assigns nothing", "write / alone"),
}
_WORDS = {
    "lambda": ("a formula defines no functions", "write the expression itself"),
    "if": ("a formula has no if", "write where(condition, x, y)"),
    "else": ("a formula has no else", "write where(condition, x, y)"),
    "for": ("a formula has no loops", "write every term"),
    "AND": ("the operator is written in small letters", "write and"),
    "OR": ("the operator is written in small letters", "write or"),
    "NOT": ("the operator is written in small letters", "write not"),
    "Not": ("the operator is written in small letters", "write not"),
}


def bad_token(formula: str, tokens: Sequence[Token], index: int) -> FormulaError:
    """The error for the token at ``index``, or for the end of the formula, that cannot be there."""
    place = Place(formula, tokens, index)
    for case in _CASES:
        error = case(place)
        if error is not None:
            return error
    here = place.word(0) or "the end of the formula"
    return place.error(f"{here} cannot stand here", 0, 0, "see the language reference")


def _doubled(place: Place) -> FormulaError | None:
    """Two symbols that are one operator elsewhere, such as || and ==."""
    for first in (-1, 0):
        pair = place.word(first) + place.word(first + 1)
        if pair in _DOUBLED and place.touching(first):
            return place.error(_DOUBLED[pair][0], first, first + 1, _DOUBLED[pair][1])
    return None


def _glued(place: Place) -> FormulaError | None:
    """Two words with no space between them, such as 7b, llama3.1, 1.2.3 and f"…"."""
    if not place.touching(-1):
        return None
    before, here = place.shown(-1), place.shown(0)
    match place.kind(-1), place.kind(0):
        case "NUMBER", "NAME" if not here.strip("_0123456789"):
            whole = f"{before}{here}".replace("_", "")
            return place.error("a number has no _ in it", -1, 0, f"write {whole}")
        case "NUMBER", "NAME":
            cure = f"declare a model under another name, or write {before}*{here} to multiply"
            return place.error(f"{before}{here} is not a name: {_MODEL_NAME}", -1, 0, cure)
        case "NUMBER", "NUMBER":
            return place.error(f"{before}{here} is not a number", -1, 0, "write one decimal point")
        case "NAME", "NUMBER":
            cure = f"declare it under another name, such as {before}{here.replace('.', '_')}"
            return place.error(f"{before}{here} is not a name: {_MODEL_NAME}", -1, 0, cure)
        case "NAME", "STRING":
            problem = f"a string takes no prefix such as {before}"
            cure = "write the string alone, or @ before it if it is a prompt"
            return place.error(problem, -1, 0, cure)
    return None


def _borrowed(place: Place) -> FormulaError | None:
    """A word that other languages have, such as lambda and if."""
    if place.kind(0) in ("NAME", "NUMBER", "STRING") or place.word(0) == "(":
        for offset in (-1, 0):
            if place.kind(offset) == "NAME" and place.word(offset) in _WORDS and place.finished:
                problem, cure = _WORDS[place.word(offset)]
                return place.error(problem, offset, offset, cure)
    return None


def _prompt(place: Place) -> FormulaError | None:
    """An @ without its model or without its prompt."""
    if place.word(-1) == "@":
        cure = 'write a declared prompt, none, or a quoted string, as in base@"Be kind."'
        return place.error("@ has no prompt on its right", -1, -1, cure)
    if place.word(0) != "@":
        return None
    if place.word(-2) == "@" and place.finished:
        return place.error("a model takes one prompt", 0, 0, "remove one of the two")
    problem = "@ has no model's name on its left"
    return place.error(problem, 0, 0, "write one model's name before it, as in base@child")


def _after_bar(place: Place) -> FormulaError | None:
    """No stage after |."""
    if place.word(-1) != "|":
        return None
    if place.word(0) in ("", ")", ",", "|"):
        return place.error("| has no stage on its right", -1, -1, _STAGE)
    what = {"NUMBER": "a number", "STRING": "a string"}.get(place.kind(0), place.word(0))
    return place.error(f"after | comes a stage, not {what}", 0, 0, _STAGE)


def _after_stage(place: Place) -> FormulaError | None:
    """An operator after a stage, which takes only | after it."""
    operator = place.word(0)
    if operator not in BINARY or not place.finished or not place.after_stage:
        return None
    first = place.item_start()
    whole = place.source(first, -1)
    cure = "put the formula up to here in parentheses"
    if len(whole) <= 60:
        cure = f"write ({whole}) {operator} …"
    return place.error(f"{operator} cannot follow a stage", 0, 0, cure)


def _chained(place: Place) -> FormulaError | None:
    """A second comparison in a row."""
    if place.word(0) not in COMPARISONS or not place.finished:
        return None
    second = 0
    first = place.back_to(COMPARISONS)
    start = place.comparison_start()
    end = place.comparison_end()
    cure = "join two comparisons with and"
    if first is None:
        return None
    if end > 0:
        middle = place.source(first + 1, second - 1)
        left, right = f"{place.source(start, first)} {middle}", place.source(second, end)
        if len(left) + len(middle) + len(right) <= 80:
            cure = f"write {left} and {middle} {right}"
    return place.error("a comparison cannot be followed by another", start, max(end, 0), cure)


def _semicolon(place: Place) -> FormulaError | None:
    """A ; that does not come directly before the first weighted argument."""
    cure = "write a comma, or ; directly before the first weighted argument: pmean(p; w: x)"
    if place.word(0) == ";":
        if not place.in_call:
            return place.error("; belongs only inside a call", 0, 0, "remove it")
        if place.word(-1) == "(":
            return place.error("; has no argument on its left", 0, 0, "remove it")
        return place.error("; comes once, before the first weighted argument", 0, 0, cure)
    found = place.back_to((";",))
    if found is None or place.back_to((":",)) is not None:
        return None
    if place.word(0) not in (")", ",", "=") and place.finished:
        return None
    problem = "; comes only before an argument with a weight"
    return place.error(problem, found, found, cure)


def _left_operand(place: Place) -> FormulaError | None:
    """Nothing before an operator or a separator."""
    here = place.word(0)
    if place.finished or place.word(-1) in BINARY or place.word(-1) == "not":
        return None
    before = place.word(-1)
    if here in BINARY:
        return place.error(f"{here} has nothing on its left", 0, 0, "write what it works on")
    if before == "=":
        name = place.shown(-2)
        problem, cure = f"{name} has no value", f"write one after =, as in {name}=1"
        return place.error(problem, -2, -1, cure)
    if before == ":":
        return place.error("this weight has nothing after it", -1, -1, "write what it weighs")
    if here == ":":
        return place.error("this weight is missing", 0, 0, "write it, as in 0.5: base")
    if here == "=":
        return place.error("= has no name on its left", 0, 0, "write a name, as in k=10")
    if before == "," and here in (",", ")"):
        after = "another comma" if here == "," else "a closing parenthesis"
        return place.error(f"this comma is followed by {after}", -1, -1, "remove the comma")
    if before == "," and not here:
        return place.error("a comma belongs inside parentheses", -1, -1, "remove it")
    if here == ",":
        return place.error("this comma has nothing before it", 0, 0, "remove it")
    if before == "(" and here == ")":
        return place.error("these parentheses are empty", -1, 0, "write a value in them")
    return None


def _right_operand(place: Place) -> FormulaError | None:
    """Nothing after an operator."""
    before, here = place.word(-1), place.word(0)
    if before not in BINARY and before != "not":
        return None
    if here == "not":
        problem = f"not cannot follow {before} directly"
        return place.error(problem, 0, 0, "put not and its condition in parentheses")
    if here in BINARY:
        cure = "remove one, or write what belongs between them"
        return place.error(f"{before} is followed by {here}", -1, 0, cure)
    return place.error(f"{before} has nothing on its right", -1, -1, "write what it works on")


def _side_by_side(place: Place) -> FormulaError | None:
    """Two values with nothing between them."""
    if not place.finished:
        return None
    if not (place.kind(0) in ("NAME", "NUMBER", "STRING") or place.word(0) in ("(", "not")):
        return None
    missing, cure = "an operator", "write one, such as + or *"
    if place.in_call:
        missing, cure = "a comma or an operator", "write a comma between two arguments"
    problem = f"{missing} is missing between {place.shown(-1)} and {place.shown(0)}"
    return place.error(problem, -1, 0, cure)


def _separator(place: Place) -> FormulaError | None:
    """A separator that belongs inside a call, or in another part of it."""
    here, item = place.word(0), place.item_start()
    if here == ",":
        return place.error("a comma belongs inside parentheses", 0, 0, "write one formula")
    if here == "=":
        if place.index == 1 and place.kind(-1) == "NAME":
            cure = "write only what stands on the right of ="
            return place.error("a formula has no name of its own", -1, 0, cure)
        if not place.in_call:
            cure = "name an argument inside a call, as in top_k(k=10)"
            return place.error("= belongs only inside a call", 0, 0, cure)
        if place.word(item - 1) == "=" or place.word(item - 1) == ":":
            return place.error("an argument has one name or one weight", 0, 0, "remove one")
        problem = "only a name can stand on the left of ="
        return place.error(problem, item, -1, "write a name, as in k=10")
    if here == ":":
        if not place.in_call:
            cure = "write it in a call, as in mix(0.5: x, 0.5: y)"
            return place.error("a weight belongs only inside a call", 0, 0, cure)
        if place.word(item - 1) == "=" or place.word(item - 1) == ":":
            return place.error("an argument has one name or one weight", 0, 0, "remove one")
        if place.after_stage:
            return place.error("a weight has no stages", item, -1, "write a scalar as the weight")
    return None


_CASES = (
    _doubled,
    _glued,
    _borrowed,
    _prompt,
    _after_bar,
    _after_stage,
    _chained,
    _semicolon,
    _left_operand,
    _right_operand,
    _side_by_side,
    _separator,
)
