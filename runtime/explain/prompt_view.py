"""What each model reads of a prompt, token by token, for whoever wants to look."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from ...models import Prompt
from ...models.text.token_bytes import token_bytes as token_bytes
from ..binding.bound import Bound
from ..binding.bound_term import BoundTerm


@dataclass(frozen=True)
class Token:
    """One token of a prompt.

    Attributes:
        id: in the model's own vocabulary.
        text: what it stands for in running text, half a character as ``<0xE6>``; the name of a
            special token; the id where there is no tokenizer.
        special: whether it marks the text and is no part of it.
    """

    id: int
    text: str
    special: bool


@dataclass(frozen=True)
class Rendered:
    """What one term, or one reward model, reads before the response.

    Attributes:
        term: as the formula writes it.
        text: what is read.
        tokens: the same, token by token; None for a reward model that reads text, and encodes it
            together with each candidate.
    """

    term: str
    text: str
    tokens: tuple[Token, ...] | None

    @property
    def ids(self) -> list[int]:
        """The token ids."""
        return [token.id for token in self.tokens or ()]


def rendered(bound: Bound, prompt: Prompt) -> list[Rendered]:
    """What each term of a plan reads of a prompt, then each reward model, in the formula's order.

    Raises:
        ModelError: a model has no way to read this prompt.
    """
    spans = bound.plan.spans
    every = sorted(bound.all_terms, key=lambda one: (one.address is not None, spans[one.term]))
    spelled: dict[int, tuple[dict[int, bytes], set[int]]] = {}
    return [_rendered(bound_term, prompt, spelled) for bound_term in every]


def _rendered(bound_term: BoundTerm, prompt: Prompt, spelled: dict[int, Any]) -> Rendered:
    read = bound_term.reads(prompt)
    if isinstance(read, str):
        return Rendered(str(bound_term.term), read, None)
    if bound_term.tokenizer is None:
        tokens = tuple(Token(i, str(i), False) for i in read)
        return Rendered(str(bound_term.term), " ".join(token.text for token in tokens), tokens)
    key = id(bound_term.tokenizer)
    if key not in spelled:
        found = token_bytes(bound_term.tokenizer, sys.maxsize)
        names = {number: name.encode() for name, number in found.special.items()}
        spelled[key] = {**found.texts, **names}, set(names)
    texts, special = spelled[key]
    tokens = tuple(Token(i, _shown(texts.get(i, b"")), i in special) for i in read)
    return Rendered(str(bound_term.term), _shown(b"".join(texts.get(i, b"") for i in read)), tokens)


def _shown(text: bytes) -> str:
    """Text; a byte that is no character, or half of one, as ``<0xE6>``."""
    return "".join(
        f"<0x{ord(character) - 0xDC00:02X}>" if "\udc80" <= character <= "\udcff" else character
        for character in text.decode("utf-8", "surrogateescape")
    )
