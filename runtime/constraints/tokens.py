"""A vocabulary as llguidance wants it: the bytes of every token that is text.

An answer's end is a token of its own there, behind the vocabulary, so that any ids of a request may
end it.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from ...models.text.token_bytes import token_bytes

_CACHED: WeakKeyDictionary[Any, dict[int, ConstraintTokens]] = WeakKeyDictionary()


class ConstraintTokens:
    """The tokens that an answer may be spelt with.

    Special tokens, and rows of the model that no token has, are none.

    Attributes:
        size: tokens that are scored; ``words``, int32 numbers of a mask, a bit for each and one for
            the end.
        tokenizer: the ``llguidance.LLTokenizer``.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        texts = token_bytes(tokenizer, size).texts
        llguidance = library()
        listed = _Listed([texts.get(number, b"") for number in range(size)])
        wrapped = llguidance.TokenizerWrapper(listed)
        self.size, self.words = size, (size + 32) // 32
        self.tokenizer = llguidance.LLTokenizer(wrapped, n_vocab=size + 1, eos_token=size)


class _Listed:
    """What ``TokenizerWrapper`` reads of a tokenizer."""

    def __init__(self, tokens: list[bytes]) -> None:
        self.eos_token_id, self.bos_token_id = len(tokens), None
        self.tokens = [*tokens, b""]
        self.special_token_ids = [self.eos_token_id]

    def __call__(self, text: Any) -> list[int]:
        """No text is split into tokens: which of them spell a text is the formula's choice."""
        return []


def constraint_tokens(tokenizer: Any, size: int) -> ConstraintTokens:
    """The tokens of a tokenizer, for a model with so many; made once."""
    known = _CACHED.setdefault(tokenizer, {})
    if size not in known:
        known[size] = ConstraintTokens(tokenizer, size)
    return known[size]


def library() -> Any:
    """llguidance.

    Raises:
        ImportError: it is not installed.
    """
    import llguidance

    return llguidance
