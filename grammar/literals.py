"""Numbers and strings, from text and back: each pair of functions is one law, read(write(x)) == x.

A number becomes an exact fraction here, once. Nothing here may build an integer whose size an
exponent in the text decides, before that exponent is known to be small.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from .errors import FormulaError
from .tree import Span

NUMBER_DIGITS = 800  # significant digits of a number; the longest double has 767
EXPONENT_DIGITS = 4  # digits of an exponent; a double's has at most 3
_MUCH_SHORTER = 6  # characters that 1e-9 must save over 0.000000001 to be preferred

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
    if len(exponent.lstrip("+-").lstrip("0")) > EXPONENT_DIGITS:
        raise _out_of_range("large" if exponent[0] != "-" else "small", span)
    value = float(text)
    if value == float("inf"):
        raise _out_of_range("large", span)
    if value == 0 and mantissa.strip("0."):
        raise _out_of_range("small", span)
    return Fraction(text)


def write_number(value: Fraction) -> str:
    """The shortest exact decimal of a value that is not negative, else a quotient as in ``1/3``.

    >>> write_number(Fraction(1, 2)), write_number(Fraction(1, 10**9)), write_number(Fraction(1, 3))
    ('0.5', '1e-9', '1/3')
    """
    scale = _decimals(value.denominator)
    if scale is None:
        return f"{_decimal(value.numerator, 0)}/{_decimal(value.denominator, 0)}"
    return _decimal(value.numerator * 10**scale // value.denominator, scale)


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
        raise ValueError("a formula cannot hold half of a character (a lone surrogate)")
    hidden = category in ("Cc", "Zl", "Zp") or (category == "Cf" and char not in _JOINERS)
    return f"\\u{ord(char):04x}" if hidden and ord(char) <= 0xFFFF else char


def _out_of_range(size: str, span: Span) -> FormulaError:
    cure = "write a number between 1e-300 and 1e300"
    return FormulaError(f"this number is too {size} for a float", "", span, cure)


def _decimals(denominator: int) -> int | None:
    """Digits after the point that 1/denominator needs, or None where they never end."""
    powers = []
    for prime in (2, 5):
        count = 0
        while denominator % prime == 0:
            denominator, count = denominator // prime, count + 1
        powers.append(count)
    return max(powers) if denominator == 1 else None


def _decimal(value: int, scale: int) -> str:
    """``value / 10**scale``, in whichever of 0.001 and 1e-3 reads better."""
    digits = _digits(value, scale)
    padded = digits.rjust(scale + 1, "0")
    plain = padded if scale == 0 else f"{padded[:-scale]}.{padded[-scale:]}".rstrip("0").rstrip(".")
    bare = digits.rstrip("0")
    if not bare:
        return "0"
    power = len(digits) - 1 - scale
    short = f"{bare[0]}.{bare[1:]}".rstrip(".") + f"e{power}"
    return short if len(plain) - len(short) >= _MUCH_SHORTER else plain


def _digits(value: int, scale: int) -> str:
    """The digits of ``value``, or a ValueError where the number they spell could not be read."""
    if value.bit_length() < 4 * (NUMBER_DIGITS + 400):
        digits = str(value)
        number = float(f"{digits}e-{scale}")
        size_fits = number != float("inf") and (number > 0 or value == 0)
        if size_fits and len(digits.strip("0")) <= NUMBER_DIGITS:
            return digits
    raise ValueError(f"a formula's numbers fit in a float and in {NUMBER_DIGITS} digits")
