"""The tokens that end a match of ``dry``: those whose text has one of some strings in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....models.text.token_bytes import token_bytes


class Breakers:
    """By their strings, the tokens of a tokenizer; nothing breaks without one.

    Args:
        tokenizer: of the formula, or None.
        size: tokens of its vocabulary.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._tokenizer, self._size = tokenizer, size
        self._known: dict[tuple[str, ...], tuple[int, ...]] = {}

    def tokens(self, strings: Sequence[str]) -> tuple[int, ...]:
        """Their ids; a special token's text is its name."""
        key = tuple(strings)
        if key not in self._known:
            self._known[key] = self._found([text.encode() for text in key])
        return self._known[key]

    def _found(self, strings: Sequence[bytes]) -> tuple[int, ...]:
        if self._tokenizer is None or not strings:
            return ()
        spelled = token_bytes(self._tokenizer, self._size)
        texts = {**spelled.texts, **{i: name.encode() for name, i in spelled.special.items()}}
        return tuple(
            number for number, text in texts.items() if any(each in text for each in strings)
        )
