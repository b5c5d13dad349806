"""The token at which the parser stopped, and the tokens around it.

Offsets count from the token that the parser could not take: 0 is that token, -1 the one before it.
This file must not word any error.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from .errors import FormulaError, printable
from .tree import Span

if TYPE_CHECKING:
    from lark import Token

COMPARISONS = ("<", "<=", ">", ">=")
BINARY = ("+", "-", "*", "/", "**", *COMPARISONS, "and", "or", "|")
SEPARATORS = (",", ";", ":", "=")  # of arguments, tuple items and formulas
AROUND_COMPARISON = (*SEPARATORS, "and", "or", "not", "|")
OPERANDS = ("NAME", "NUMBER", "STRING")
CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
BRACKETS = {"(": "parenthesis", "[": "bracket", "{": "brace"}
DEEPER = {**dict.fromkeys(CLOSED_BY, 1), **dict.fromkeys(CLOSED_BY.values(), -1)}


def fit(word: str) -> str:
    """A word for a message: on one line, and not much longer than 30 characters."""
    line = printable(word)
    return line if len(line) <= 30 else f"{line[:20]}…{line[-1]}"


@dataclass(frozen=True, slots=True)
class Stop:
    """The token at ``index`` of ``tokens``, or the end of the formula."""

    formula: str
    tokens: Sequence[Token]
    index: int

    def word(self, offset: int) -> str:
        """The token's text; empty before the first and after the last."""
        return str(self._token(offset) or "")

    def kind(self, offset: int) -> str:
        """The token's terminal, as formula.lark names it; empty where ``word`` is."""
        token = self._token(offset)
        return token.type if token else ""

    def touching(self, offset: int) -> bool:
        """No space between the token and the next one."""
        token, after = self._token(offset), self._token(offset + 1)
        return token is not None and after is not None and token.end_pos == after.start_pos

    def source(self, first: int, last: int) -> str:
        """The text from one token to another, both included, on one line."""
        return printable(self.formula[self._start(first) : self._end(last)])

    def shown(self, offset: int) -> str:
        """The token, as a message shows it."""
        return fit(self.word(offset))

    def error(self, problem: str, first: int, last: int, cure: str) -> FormulaError:
        """The error whose carets are under the tokens ``first`` to ``last``."""
        span = Span(self._start(first), self._end(last))
        return FormulaError(problem, self.formula, span, cure)

    @property
    def finished(self) -> bool:
        """A value ends just before it, so that an operator could come."""
        return self.kind(-1) in OPERANDS or self.word(-1) in CLOSED_BY.values()

    @property
    def in_call(self) -> bool:
        """The innermost open bracket is that of a call."""
        _, opened = self._leftwards()
        if opened is None or self.word(opened) != "(":
            return False
        return self.kind(opened - 1) == "NAME"

    @property
    def in_braces(self) -> bool:
        """The innermost open bracket is a brace."""
        _, opened = self._leftwards()
        return opened is not None and self.word(opened) == "{"

    @property
    def after_stage(self) -> bool:
        """The value that ends just before it is a stage."""
        name = next(iter(self._leftwards()[0]), 0)
        return name < 0 and self.kind(name) == "NAME" and self.word(name - 1) == "|"

    def back_to(self, words: Collection[str]) -> int | None:
        """The nearest of ``words`` to the left, inside the same bracket."""
        return next((at for at in self._leftwards()[0] if self.word(at) in words), None)

    def start(self, words: Collection[str]) -> int:
        """The token after the nearest of ``words`` or the open bracket, else the first of all."""
        offsets, opened = self._leftwards()
        first = next((at for at in offsets if self.word(at) in words), opened)
        return -self.index if first is None else first + 1

    def comparison_end(self) -> int:
        """The last token of the comparison around it; 0 where nothing follows."""
        at, depth = 1, 0
        while depth or self.word(at) not in (*AROUND_COMPARISON, *COMPARISONS, ""):
            depth += DEEPER.get(self.word(at), 0)
            if depth < 0:
                break
            at += 1
        return at - 1

    def _leftwards(self) -> tuple[list[int], int | None]:
        """The offsets to the left inside the same bracket, nearest first, and the bracket's own.

        What other brackets hold is left out; brackets are known to match.
        """
        offsets: list[int] = []
        depth = 0
        for at in range(-1, -self.index - 1, -1):
            word = self.word(at)
            depth -= DEEPER.get(word, 0)
            if depth < 0:
                return offsets, at
            if depth == 0 and word not in CLOSED_BY:
                offsets.append(at)
        return offsets, None

    def _token(self, offset: int) -> Token | None:
        at = self.index + offset
        return self.tokens[at] if 0 <= at < len(self.tokens) else None

    def _start(self, offset: int) -> int:
        token = self._token(offset)
        return cast(int, token.start_pos) if token else len(self.formula)

    def _end(self, offset: int) -> int:
        token = self._token(offset)
        return cast(int, token.end_pos) if token else len(self.formula) + 1
