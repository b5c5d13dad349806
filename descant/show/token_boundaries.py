"""Token boundaries that can be seen: colours on a terminal, strokes elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from ..runtime.explain.prompt_view import Rendered, Token

STYLES, SPECIAL = ("black on bright_cyan", "black on bright_yellow"), "bold white on magenta"


def show(console: Console, every: Sequence[Rendered]) -> None:
    """Print what each model reads; nothing in it is markup."""
    for number, one in enumerate(every):
        if number:
            console.print()
        if one.tokens is None:
            console.print(f"{one.term}  text, {len(one.text)} characters", markup=False)
            console.print(f"  {_visible(one.text)}", markup=False)
            continue
        many = f"{len(one.tokens)} token{'' if len(one.tokens) == 1 else 's'}"
        console.print(f"{one.term}  {many}", markup=False)
        console.print(
            Text("  ").append_text(_coloured(one.tokens))
            if console.is_terminal
            else f"  {separated(one.tokens)}",
            markup=False,
        )
        console.print("  " + " ".join(map(str, one.ids)), markup=False)


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
    """Tokens on backgrounds that take turns; lines end where the text's do."""
    found = Text()
    for number, token in enumerate(tokens):
        style = SPECIAL if token.special else STYLES[number % 2]
        shown = _visible(token.text)
        found.append(shown, style)
        if "\n" in token.text:
            found.append("\n  ")
    return found


def _visible(text: str) -> str:
    """One line: what would end it is written out."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")
