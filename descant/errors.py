"""What descant raises on purpose. Everything else that comes out of it is a bug.

A leaf: it imports nothing of ours, so that every package can raise these. What a message quotes may
be a stranger's, and of any size: it is cut here, once for all.
"""

from __future__ import annotations

import re
from reprlib import Repr
from typing import Any

QUOTED, MESSAGE = 200, 2000  # characters of one quotation, and of a message
_WORD = re.compile(rf"\S{{{QUOTED + 1},}}")
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = QUOTED


class DescantError(Exception):
    """An error whose message is for the user: what is wrong, where, and what to write instead.

    The command line prints it in one line and exits with 2, and the server answers 4xx. Whatever
    else is raised is reported as a bug. A message is at most 2,000 characters, and a word in it, as
    of a stranger's key, at most 200: what is longer lacks its middle.
    """

    def __str__(self) -> str:
        return short_message(super().__str__())


class ArgumentError(DescantError, ValueError):
    """Arguments that have a wrong value, or do not fit together."""


class ArgumentTypeError(DescantError, TypeError):
    """An argument that does not exist, or has another type."""


class StateError(DescantError, RuntimeError):
    """A call that cannot be made now, or in this order."""


def shortened(text: str, most: int = QUOTED, gap: str = "…") -> str:
    """A text of at most so many characters: its beginning and its end, with ``gap`` between them.

    >>> shortened("abcdefgh", 5)
    'abc…h'
    """
    if len(text) <= most:
        return text
    kept = most - len(gap)
    end = kept // 3
    return f"{text[: kept - end]}{gap}{text[len(text) - end :]}"


def quoted(value: Any) -> str:
    """A value as Python writes it, for a message: parts and depths of it, at most 200 characters.

    >>> quoted("abc"), quoted([1, None])
    ("'abc'", '[1, None]')
    """
    try:
        return shortened(_REPR.repr(value))
    except (ValueError, RecursionError):  # a number of 5000 digits
        return f"a {type(value).__name__}"


def short_message(text: str) -> str:
    """A message whose long words are shortened, and which is short itself."""
    if len(text) <= QUOTED:
        return text
    return shortened(_WORD.sub(lambda word: shortened(word[0]), text), MESSAGE, " … ")
