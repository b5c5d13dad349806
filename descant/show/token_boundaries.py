"""Prompts with visible token boundaries: colours on a terminal, strokes elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from .terminal import visible

if TYPE_CHECKING:
    from ..runtime.explain.prompt_view import PromptView, Token

STYLES, SPECIAL = ("black on bright_cyan", "black on bright_yellow"), "bold white on magenta"


def show(console: Console, views: Sequence[PromptView]) -> None:
    """Print what each model reads; nothing in it is markup."""
    for number, view in enumerate(views):
        if number:
            console.print()
        if view.tokens is None:
            console.print(f"{view.term}  text, {len(view.text)} characters")
            console.print(f"  {_visible(view.text)}")
            continue
        many = f"{len(view.tokens)} token{'' if len(view.tokens) == 1 else 's'}"
        console.print(f"{view.term}  {many}")
        terminal = console.is_terminal
        tokens = _coloured(view.tokens) if terminal else Text(separated(view.tokens))
        console.print(Text("  ").append_text(tokens))
        console.print("  " + " ".join(map(str, view.ids)))


def separated(tokens: Sequence[Token]) -> str:
    """Tokens with a stroke between them, and special ones in angle quotes.

    >>> from descant.runtime.explain.prompt_view import Token
    >>> separated([Token(1, "<s>", True), Token(40, " the", False), Token(9, "re", False)])
    '«<s>»| the|re'
    """
    return "|".join(
        f"«{token.text}»" if token.special else _visible(token.text).replace("|", r"\|")
        for token in tokens
    )


def _coloured(tokens: Sequence[Token]) -> Text:
    """Tokens on two alternating backgrounds; a line ends after a token with a line break."""
    coloured = Text()
    for number, token in enumerate(tokens):
        coloured.append(_visible(token.text), SPECIAL if token.special else STYLES[number % 2])
        if "\n" in token.text:
            coloured.append("\n  ")
    return coloured


def _visible(text: str) -> str:
    """The text on one line, with escapes for line breaks, tabs and what a terminal obeys."""
    return visible(text.replace("\\", r"\\").replace("\n", r"\n").replace("\t", r"\t"))
