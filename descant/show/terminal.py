"""The console of every command: text that somebody else wrote does nothing to a terminal."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

WIDE = 160  # columns of a table that is written to a file
# Control characters but the line break and the tab; those that turn the direction of writing; half
# characters, which no encoding has.
_ACTS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def visible(text: str) -> str:
    r"""The text with an escape for each character that a terminal obeys instead of showing it.

    >>> print(visible("\x1b[31mred\a, \u202eright to left"))
    \x1b[31mred\x07, \u202eright to left
    """
    return _ACTS.sub(lambda match: repr(match[0])[1:-1], text)


class Screen(Console):
    """Rich's console without markup, on whose terminal every string is ``visible``."""

    def __init__(self, **options: Any) -> None:
        plain = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}
        super().__init__(**{**plain, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """What rich calls for every string: those that are printed, and a table's cells."""
        return super().render_str(visible(text) if self.is_terminal else text, **options)

    def write(self, text: str) -> None:
        """Print a text as it is; on a terminal it is ``visible``."""
        if self.is_terminal:
            self.print(text)
        else:
            self.file.write(f"{text}\n")

    def for_tables(self) -> Screen:
        """This screen for a table: it has the terminal's width, and in a file a wide one."""
        return self if self.is_terminal else Screen(width=WIDE, soft_wrap=False)
