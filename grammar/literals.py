"""Numbers and strings, from text and back: each pair of functions is one law, read(write(x)) == x.

A number becomes an exact fraction here, once. Nothing here may build an integer whose size an
exponent in the text decides, before that exponent is known to be small.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Context, Decimal, Inexact
from fractions import Fraction

from ..errors import ArgumentError
from .errors import FormulaError
from .tree import Span

NUMBER_DIGITS = 800  # significant digits of a number; the longest double has 767
EXPONENT_DIGITS = 4  # digits of an exponent; a double's has at most 3
_MUCH_SHORTER = 6  # characters that 1e-9 must save over 0.000000001 to be preferred

_EXACT = Context(prec=NUMBER_DIGITS, traps=[Inexact])
_READ = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "'": "'"}
_WRITE = {"\n": "\\n", "\t": "\\t", "\\": "\\\\", '"': '\\"'}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_JOINERS = "\u200c\u200d"  # part of how words and emoji are spelt, so written as they are


def read_number(text: str, span: Span) -> Fraction:
    """The exact value of a NUMBER, or a FormulaError where no float could hold it."""
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa.replace(".", "").strip("0")) > NUMBER_DIGITS:
        problem = f"a number may have at most {NUMBER_DIGITS} digits"
        raise FormulaError(problem, "", span, "write fewer digits")
    value, unread = float(text), len(exponent.lstrip("+-").lstrip("0")) > EXPONENT_DIGITS
    if value == float("inf") or (unread and exponent[0] != "-"):
        size = "large"
    elif unread or (value == 0 and mantissa.strip("0.")):
        size = "small"
    else:
        return Fraction(text)
    cure = "write a number between 1e-300 and 1e300"
    raise FormulaError(f"this number is too {size} for a float", "", span, cure)


def write_number(value: Fraction) -> str:
    """The shortest exact decimal of a value that is not negative, else a quotient as in ``1/3``.

    >>> write_number(Fraction(1, 2)), write_number(Fraction(1, 10**9)), write_number(Fraction(1, 3))
    ('0.5', '1e-9', '1/3')
    """
    over, under = value.as_integer_ratio()
    if pow(10, under.bit_length(), under):  # the decimal never ends
        return f"{_decimal(over)}/{_decimal(under)}"
    return _decimal(over, under)


def read_string(text: str, span: Span) -> str:
    """The characters that a STRING, with its quotes, stands for."""
    inside = text[1:-1]
    for i, char in enumerate(inside):
        if unicodedata.category(char) == "Cs":
            at = span.start + 1 + i
            raise FormulaError("this is half of a character", "", Span(at, at + 1), _COMPLETE)

    def unescaped(match: re.Match[str]) -> str:
        code, at = match[1], span.start + 1 + match.start()
        escape = Span(at, at + len(match[0]))
        if len(code) == 5:
            char = chr(int(code[1:], 16))
            if unicodedata.category(char) == "Cs":
                raise FormulaError(f"{match[0]} is half of a character", "", escape, _COMPLETE)
            return char
        if code not in _READ:
            shown = f"escape \\{code}" if code.isprintable() else "such escape"
            cure = r"""write one of \n \t \\ \" \' or \u and four hexadecimal digits"""
            raise FormulaError(f"a string has no {shown}", "", escape, cure)
        return _READ[code]

    return _ESCAPE.sub(unescaped, inside)


def write_string(value: str) -> str:
    """``value`` in double quotes, on one line, with escapes for what a reader could not see.

    >>> print(write_string('say "hi"'))
    "say \\"hi\\""
    """
    return '"' + "".join(_WRITE.get(char) or _visible(char) for char in value) + '"'


_COMPLETE = "write the whole character"


def _visible(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cs":
        raise ArgumentError("a formula cannot hold half of a character (a lone surrogate)")
    hidden = category in ("Cc", "Zl", "Zp") or (category == "Cf" and char not in _JOINERS)
    return f"\\u{ord(char):04x}" if hidden and ord(char) <= 0xFFFF else char


def _decimal(over: int, under: int = 1) -> str:
    """``over / under``, in whichever of 0.001 and 1e-3 reads better."""
    try:
        exact = _EXACT.normalize(_EXACT.divide(over, under))
    except Inexact:
        exact = Decimal("inf")
    number = float(exact)
    if number == float("inf") or (number == 0 and over):
        raise ArgumentError(f"a formula's numbers fit in a float and in {NUMBER_DIGITS} digits")
    plain, short = f"{exact:f}", f"{exact:e}".replace("+", "")
    return short if len(plain) - len(short) >= _MUCH_SHORTER else plain
