"""The one error that owns the caret: what is wrong, where, and what to write instead.

It imports nothing of ours but the span and the base of all errors: every phase can raise it.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

from ..errors import QUOTED, DescantError, short_message
from .tree import Span

WIDTH = 100  # columns of the formula shown around the marked span


class FormulaError(DescantError, ValueError):
    """A formula that is wrong, marked where it is.

    Args:
        problem: one line on what is wrong.
        text: the whole formula.
        span: what is wrong, as character offsets into ``text``.
        cure: one line on what to write instead; empty where there is nothing to suggest.
        more: the part of the documents about it; empty where there is none.

    Examples:
        >>> problem, cure = "no model is named bse", "did you mean base?"
        >>> print(FormulaError(problem, "bse + arm", Span(0, 3), cure))
        no model is named bse
          bse + arm
          ^^^
        did you mean base?
    """

    def __init__(self, problem: str, text: str, span: Span, cure: str = "", more: str = "") -> None:
        self.problem, self.text, self.span, self.cure, self.more = problem, text, span, cure, more
        super().__init__(problem, text, span, cure, more)

    def __str__(self) -> str:
        line, marks = _marked(self.text, self.span)
        more = self.more and f"more: {self.more}"
        parts = [self.problem, f"  {line}", f"  {marks}", self.cure, more]
        return short_message("\n".join(part.rstrip() for part in parts if part.strip()))


class Marked:
    """Something that is made from a formula's text, ``source``, and marks errors in it."""

    source: str

    def error(self, problem: str, span: Span, cure: str = "", more: str = "") -> FormulaError:
        """A FormulaError marked in the formula."""
        return FormulaError(problem, self.source, span, cure, more)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that has these initials, holds this name, or is spelled almost so."""
    options = [option for option in known if max(len(option), len(name)) <= QUOTED]
    near = [option for option in options if name == "".join(p[:1] for p in option.split("_"))]
    near += [option for option in options if name in option and len(name) > 3]
    lower = {option.lower(): option for option in options}
    near += [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=1)]
    return near[0] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A cure that names the nearest of the ``known`` names, or lists them when none is near."""
    options = list(dict.fromkeys(known))
    if near := nearest(name, options):
        return f"did you mean {near}?"
    if not options:
        return ""
    options.sort()
    shown = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    return f"known here: {shown}"


def _marked(text: str, span: Span) -> tuple[str, str]:
    """The line that holds the span, cut to a window, and the carets that go under it."""
    start = min(max(span.start, 0), len(text))
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", start)
    last = len(text) if last < 0 else last
    end = min(max(span.end, start + 1), max(last, start + 1))
    prefix = suffix = ""
    if last - first > WIDTH:
        low = max(first, min(start - WIDTH // 3, last - WIDTH))
        high = min(last, low + WIDTH)
        prefix, suffix = ("…" if low > first else ""), ("…" if high < last else "")
        first, last, end = low, high, min(end, max(high, start + 1))
    before = prefix + printable(text[first:start])
    line = prefix + printable(text[first:last]) + suffix
    return line, " " * _columns(before) + "^" * max(1, _columns(printable(text[start:end])))


def printable(text: str) -> str:
    """The text on one line: a space for each character that does not show."""
    return "".join(c if c.isprintable() else " " for c in text)


def _columns(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    zero = sum(unicodedata.combining(c) != 0 for c in text)
    return len(text) + wide - zero
