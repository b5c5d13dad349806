"""What a token stands for: bytes of running text, by its tokenizer's own decoder.

A text's first word is no special case here: the space that some tokenizers put before it is added
when a prompt is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .token_decoder import BYTE, CHARACTERS, token_decoder


@dataclass(frozen=True)
class TokenBytes:
    """The tokens of one tokenizer that are text.

    Attributes:
        texts: the bytes of each id that stands for text.
        kind: the decoder, as the tokenizer describes it; "" where that is unknown, and a token
            stands for the string that it is.
        special: the ids of special tokens, by their names.
        to_model: bytes to the string that the tokenizer's model splits; None where that is unknown.
        model: the tokenizer's model, or None.
    """

    texts: Mapping[int, bytes]
    kind: str
    special: Mapping[str, int]
    to_model: Callable[[bytes], str] | None
    model: Any

    @cached_property
    def ids(self) -> dict[bytes, list[int]]:
        """The ids of each text; those of byte tokens, ``<0x41>``, come last."""
        ids: dict[bytes, list[int]] = {}
        for number, text in self.texts.items():
            ids.setdefault(text, []).append(number)
        return ids

    def encode(self, text: bytes) -> tuple[int, ...]:
        """The tokens that stand for these bytes in running text; empty where there are none.

        The tokenizer's own model splits them, where it can and keeps every byte; otherwise they are
        as few as possible.
        """
        if text in self.ids:
            return (self.ids[text][0],)
        if self.to_model is not None:
            try:
                tokens = self.model.tokenize(self.to_model(text))
            except (UnicodeDecodeError, ValueError):  # half a character, or no unknown token
                tokens = []
            ids = tuple(token.id for token in tokens)
            if b"".join(self.texts.get(number, b"") for number in ids) == text:
                return ids
        return self._fewest(text)

    def _fewest(self, text: bytes) -> tuple[int, ...]:
        best: dict[int, tuple[int, ...]] = {len(text): ()}
        for start in reversed(range(len(text))):
            splits = [
                (self.ids[part][0], *best[end])
                for end in range(len(text), start, -1)
                if end in best and (part := text[start:end]) in self.ids
            ]
            if splits:
                best[start] = min(splits, key=len)
        return best.get(0, ())


def token_bytes(tokenizer: Any, size: int) -> TokenBytes:
    """What the tokens of a tokenizer stand for.

    Args:
        tokenizer: of transformers; without a backend, tokens stand for the strings that they are.
        size: ids from here on are left out: the model has no rows for them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = token_decoder(tokenizer)
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if i < size}
    special = special_ids(tokenizer)
    texts = {
        number: text
        for token, number in sorted(vocabulary.items(), key=lambda x: (_is_byte(x[0]), x[1]))
        if number not in special and (text := decoder.running(token))
    }
    names = {str(token): number for token, number in vocabulary.items() if number in special}
    to_model = _TO_MODEL.get(decoder.kind)
    model = backend.model if to_model is not None and backend is not None else None
    return TokenBytes(texts, decoder.kind, names, to_model, model)


def special_ids(tokenizer: Any) -> set[int]:
    """The ids of tokens that mark a text and are no part of it."""
    named = set(getattr(tokenizer, "all_special_ids", ()))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return named | {number for number, token in added.items() if token.special}


def _is_byte(token: str | bytes) -> bool:
    return isinstance(token, str) and BYTE.fullmatch(token) is not None


_TO_MODEL: dict[str, Callable[[bytes], str]] = {
    "ByteLevel": lambda text: "".join(CHARACTERS[byte] for byte in text),
    "SentencePiece": lambda text: text.decode().replace(" ", "▁"),
}
