"""What each model reads of a prompt, token by token."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from ...models import Prompt
from ...models.functions import UserPrompt
from ...models.text.token_bytes import token_bytes
from ..binding.bound import Bound
from ..binding.bound_term import BoundTerm
from ..binding.images import with_eyes


@dataclass(frozen=True)
class Token:
    """One token of a prompt.

    Attributes:
        id: in the model's own vocabulary.
        text: its text, half a character as ``<0xE6>``; the name of a special token; the id where
            there is no tokenizer.
        special: whether it is a special token.
    """

    id: int
    text: str
    special: bool


@dataclass(frozen=True)
class PromptView:
    """What one term, or one reward model, reads before the response.

    Attributes:
        term: as the formula writes it.
        text: the rendered prompt.
        tokens: the same, token by token; None for a reward model that reads text, which is encoded
            together with each candidate.
    """

    term: str
    text: str
    tokens: tuple[Token, ...] | None

    @property
    def ids(self) -> list[int]:
        """The token ids."""
        return [token.id for token in self.tokens or ()]


def prompt_views(bound: Bound, prompt: Prompt) -> list[PromptView]:
    """What each term of a plan reads of a prompt, then each reward model, in the formula's order.

    Raises:
        ModelError: a model has no way to read this prompt.
    """
    spans, prompt = bound.plan.spans, with_eyes(bound, prompt)
    terms = sorted(bound.all_terms, key=lambda term: (term.address is not None, spans[term.term]))
    tokens: dict[int, tuple[dict[int, bytes], set[int]]] = {}  # by tokenizer
    return [_view(bound_term, prompt, tokens) for bound_term in terms]


def _view(bound_term: BoundTerm, prompt: Prompt, known: dict[int, Any]) -> PromptView:
    read = bound_term.reads(prompt)
    if isinstance(read, UserPrompt):
        return PromptView(str(bound_term.term), str(read.prompt), None)
    if isinstance(read, str):
        return PromptView(str(bound_term.term), read, None)
    if bound_term.tokenizer is None:
        tokens = tuple(Token(i, str(i), False) for i in read)
        return PromptView(str(bound_term.term), " ".join(map(str, read)), tokens)
    key = id(bound_term.tokenizer)
    if key not in known:
        spelled = token_bytes(bound_term.tokenizer, sys.maxsize)
        names = {number: name.encode() for name, number in spelled.special.items()}
        known[key] = {**spelled.texts, **names}, set(names)
    texts, special = known[key]
    tokens = tuple(Token(i, _shown(texts.get(i, b"")), i in special) for i in read)
    text = _shown(b"".join(texts.get(i, b"") for i in read))
    return PromptView(str(bound_term.term), text, tokens)


def _shown(text: bytes) -> str:
    """Text; a byte that is no character, or half of one, as ``<0xE6>``."""
    return "".join(
        f"<0x{ord(character) - 0xDC00:02X}>" if "\udc80" <= character <= "\udcff" else character
        for character in text.decode("utf-8", "surrogateescape")
    )
