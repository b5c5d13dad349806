"""What a token stands for: bytes of running text, by its tokenizer's own decoder.

The decoder is read from the tokenizer, never guessed from the tokens. A text's first word is no
special case here: the space that some tokenizers put before it is added when a prompt is encoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

Step = Callable[[str], "str | bytes"]
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CLOSE = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")  # as tokenizers do


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
    decoder = getattr(backend, "decoder", None)
    kind, steps = _steps(json.loads(decoder.__getstate__()) if decoder is not None else {})
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if i < size}
    special = special_ids(tokenizer)
    texts = {
        number: text
        for token, number in sorted(vocabulary.items(), key=lambda x: (_is_byte(x[0]), x[1]))
        if number not in special and (text := _bytes_of(token, steps))
    }
    names = {str(token): number for token, number in vocabulary.items() if number in special}
    to_model = _TO_MODEL.get(kind)
    model = backend.model if to_model is not None and backend is not None else None
    return TokenBytes(texts, kind, names, to_model, model)


def special_ids(tokenizer: Any) -> set[int]:
    """The ids of tokens that mark a text and are no part of it."""
    named = set(getattr(tokenizer, "all_special_ids", ()))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return named | {number for number, token in added.items() if token.special}


def _is_byte(token: str | bytes) -> bool:
    return isinstance(token, str) and _BYTE.fullmatch(token) is not None


def _bytes_of(token: str | bytes, steps: Sequence[Step]) -> bytes:
    """A token's bytes, which some tokenizers' tokens are already."""
    text = token
    for step in steps:
        if isinstance(text, bytes):
            return text
        text = step(text)
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _steps(decoder: Mapping[str, Any]) -> tuple[str, list[Step]]:
    """A decoder's kind, and its steps for a token in the middle of a text.

    What it does to the start or the end of a text is left out.
    """
    parts = decoder.get("decoders", [decoder]) if decoder else []
    named, steps = [part["type"] for part in parts], list[Step]()
    for i, part in enumerate(parts):
        match part:
            case {"type": "ByteLevel"}:
                steps.append(_from_alphabet)
            case {"type": "ByteFallback"}:
                steps.append(_from_hexadecimal)
            case {"type": "Metaspace", "replacement": str(mark)}:
                steps.append(_replacing(mark, " "))
            case {"type": "Replace", "pattern": {"String": str(mark)}, "content": str(content)}:
                steps.append(_replacing(mark, content))
            case {"type": "BPEDecoder", "suffix": str(suffix)}:
                steps.append(_replacing(suffix, " "))
            case {"type": "WordPiece", "prefix": str(prefix), "cleanup": bool(cleanup)}:
                steps.append(_continuing(prefix, cleanup))
            case {"type": "Fuse"}:
                pass
            case {"type": "Strip"} if "Fuse" in named[:i]:
                pass  # of a whole text
            case _:
                return "", []
    if "ByteLevel" in named:
        return "ByteLevel", steps
    marked = [part.get("replacement") or part.get("pattern") for part in parts]
    if "▁" in marked or {"String": "▁"} in marked:
        return "SentencePiece", steps
    return "+".join(named), steps


_CHARACTERS: dict[int, str] = bytes_to_unicode()  # GPT-2's character for each byte
_ALPHABET = {character: byte for byte, character in _CHARACTERS.items()}


def _from_alphabet(token: str) -> str | bytes:
    """Added tokens may have characters that are not in the alphabet."""
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()


def _from_hexadecimal(token: str) -> str | bytes:
    match = _BYTE.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token


def _replacing(mark: str, content: str) -> Step:
    return lambda token: token.replace(mark, content)


def _continuing(prefix: str, cleanup: bool) -> Step:
    def step(token: str) -> str:
        if token.startswith(prefix):
            return token.removeprefix(prefix)
        text = f" {token}"
        for spaced in _CLOSE if cleanup else ():
            text = text.replace(spaced, spaced.strip())
        return text

    return step


_TO_MODEL: dict[str, Callable[[bytes], str]] = {
    "ByteLevel": lambda text: "".join(_CHARACTERS[byte] for byte in text),
    "SentencePiece": lambda text: text.decode().replace(" ", "▁"),
}
