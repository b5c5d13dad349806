"""Errors for a character that starts no token: its name, and what was probably meant.

This file only words errors. It must not decide what is a formula; the lexer does.
"""
# ruff: noqa: RUF001 -- the tables hold look-alike characters on purpose

from __future__ import annotations

import re
import unicodedata

from .errors import FormulaError
from .tree import Span

_COMPARE = "compare with < <= > >="
_KNOWN = {
    "&": ("a formula has no operator &", "write and between two conditions"),
    "&&": ("a formula has no operator &&", "write and between two conditions"),
    "!": ("a formula has no operator !", "write not before a condition"),
    "!=": ("a formula cannot compare with !=", _COMPARE),
    "^": ("a formula has no operator ^", "write ** for a power"),
    "%": ("a formula has no operator %", "write a share as 0.1; of numbers there is no remainder"),
    "~": ("a formula has no operator ~", "write not before a condition, or - before a term"),
    "$": ("a formula has no $", "write a declared parameter as its bare name"),
    "?": ("a formula has no ?", "write where(condition, x, y) to choose"),
    "\\": ("a backslash belongs inside a string", "break lines anywhere, without a backslash"),
    "`": ("a string is not quoted with `", 'write "'),
    "#": ("a formula has no comments", "remove the comment; a run file may have comments"),
    **dict.fromkeys(("..", "...", "…"), ("a formula cannot leave anything out", "write all of it")),
    ".": ("this dot belongs to no number", "write a number such as 0.5"),
}
_LOOKS_LIKE = {
    **dict.fromkeys("‐‑‒–—―−⁃", "-"),
    **dict.fromkeys("×·⋅∗•✕", "*"),
    **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("“”„‟«»″", '"'),
    **dict.fromkeys("‘’‚‛′´", "'"),
    **dict.fromkeys("∣│¦‖", "|"),
    **dict.fromkeys("、،", ","),
    **dict.fromkeys("∧", "and"),
    **dict.fromkeys("∨", "or"),
    **dict.fromkeys("¬", "not"),
    **dict.fromkeys("≤⩽", "<="),
    **dict.fromkeys("≥⩾", ">="),
    **dict.fromkeys("√", "sqrt(…)"),
    **dict.fromkeys("∞", "a large number"),
}
_GREEK = re.compile(r"GREEK (?:SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)$")


def bad_character(formula: str, at: int) -> FormulaError:
    """The error for the character at ``at``, at which no token can start."""
    char = formula[at]
    if char in "\"'":
        return _unterminated(formula, at)
    if char == "." and (dotted := _dotted(formula, at)):
        cure = "a formula reads no attributes; declare a model under a name without dots"
        problem = "a name holds only letters, digits and underscores"
        return FormulaError(problem, formula, dotted, cure)
    for length in (3, 2, 1):
        symbol = formula[at : at + length]
        if symbol in _KNOWN:
            problem, cure = _KNOWN[symbol]
            marked = formula[at:].splitlines()[0] if char == "#" else symbol
            return FormulaError(problem, formula, Span(at, at + len(marked)), cure)
    if char.isalpha() and char not in _LOOKS_LIKE:
        return _foreign_name(formula, at)
    problem = f"{_named(char)} has no meaning in a formula"
    return FormulaError(problem, formula, Span(at, at + 1), _ascii(char))


def _unterminated(formula: str, at: int) -> FormulaError:
    quote = formula[at]
    line, *below = re.split(r"[\r\n]", formula[at + 1 :])
    if quote in "".join(below):
        cure = r"close it on the line where it opens, and write \n for a line break"
    else:
        cure = f"close it with {quote}"
        if line.endswith("\\" + quote):
            cure = rf"close it with {quote}: \{quote} stands for a quote inside the string"
    return FormulaError("this string is never closed", formula, Span(at, at + 1), cure)


def _dotted(formula: str, at: int) -> Span | None:
    """The span of a dotted name around the dot at ``at``, as in ``a.b``."""
    before = re.search(r"[\w)\]\"']+$", formula[:at])
    after = re.match(r"\.[^\W\d]\w*(\.\w+)*", formula[at:])
    return Span(before.start(), at + after.end()) if before and after else None


def _foreign_name(formula: str, at: int) -> FormulaError:
    """A name with a letter that is not one of a to z, such as a Greek or an accented one."""
    word = next(match for match in re.finditer(r"\w+", formula) if match.end() > at)
    problem = f"{_named(formula[at])} cannot be in a name"
    near = "".join(map(_latin, word[0]))
    near = near if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{,29}", near) else ""
    cure = "write names with the letters a to z, digits and underscores"
    return FormulaError(problem, formula, Span(*word.span()), cure + (f": {near}" if near else ""))


def _latin(char: str) -> str:
    if greek := _GREEK.match(unicodedata.name(char, "")):
        return "lam" if greek[1] == "LAMDA" else greek[1].lower()
    return "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))


def _named(char: str) -> str:
    """The character as it is, where it shows, with its number and its Unicode name."""
    name = unicodedata.name(char, "").lower()
    about = f"U+{ord(char):04X}" + (f", {name}" if name else "")
    shown = char.isprintable() and not char.isspace()
    return f"{char} ({about})" if shown else f"the character {about}"


def _ascii(char: str) -> str:
    """What to write instead of a character that looks like one of ours."""
    if char in _LOOKS_LIKE:
        return f"write {_LOOKS_LIKE[char]}"
    if char.isspace():
        return "write a plain space"
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return "remove it"
    if char in "²³":
        return f"write **{unicodedata.digit(char)}"
    plain = unicodedata.normalize("NFKC", char)
    if plain.isdecimal():
        return f"write {''.join(str(unicodedata.digit(c)) for c in plain)}"
    return f"write {plain}" if plain != char and plain.isascii() else "remove it"
