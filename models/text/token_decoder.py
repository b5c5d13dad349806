"""A tokenizer's own decoder, read as what it does to one token: in running text, and as the first.

The decoder is read from the tokenizer, never guessed from the tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from transformers.convert_slow_tokenizer import bytes_to_unicode

Step: TypeAlias = Callable[[str], "str | bytes"]
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
CHARACTERS: dict[int, str] = bytes_to_unicode()  # GPT-2's character for each byte
_ALPHABET = {character: byte for byte, character in CHARACTERS.items()}
_CLOSE = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")  # as tokenizers do
_STRIPS = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_ORDER = ("Replace", "Metaspace", "BPEDecoder", "WordPiece", "ByteLevel", "ByteFallback", "Fuse",
          "Strip")  # fmt: skip


@dataclass(frozen=True)
class TokenDecoder:
    """What a decoder makes of one token.

    Attributes:
        kind: the decoder, as the tokenizer describes it; "" where that is unknown, and a token
            stands for the string that it is.
        exact: whether a text is its tokens' bytes, one after another.
        spaces_words: whether the space after a word is written only where another token follows.
    """

    kind: str
    exact: bool = False
    spaces_words: bool = False
    running_steps: tuple[Step, ...] = ()
    first_steps: tuple[Step, ...] = ()
    strips: bool = False  # takes a space off the start of a text

    def running(self, token: str | bytes) -> bytes:
        """The bytes of a token in the middle of a text."""
        return _bytes(token, self.running_steps)

    def first(self, token: str | bytes) -> bytes:
        """The bytes of the first token of a text."""
        text = _bytes(token, self.first_steps)
        return text.removeprefix(b" ") if self.strips else text


def token_decoder(tokenizer: Any) -> TokenDecoder:
    """The decoder of a tokenizer of transformers; without a backend it is unknown."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return TokenDecoder("")
    described = json.loads(decoder.__getstate__())
    parts = described.get("decoders", [described])
    named = [part["type"] for part in parts]
    running, first = list[Step](), list[Step]()
    for i, part in enumerate(parts):
        if part["type"] == "Fuse" or (part["type"] == "Strip" and "Fuse" in named[:i]):
            continue  # of a whole text
        step = _step(part)
        if step is None:
            return TokenDecoder("")
        running.append(step)
        first.append(_first_step(part) or step)
    known = [_ORDER.index(name) for name in named]
    strips = [part for part in parts if part["type"] == "Strip"]
    exact = known == sorted(known) and strips in ([], [_STRIPS])
    return TokenDecoder(
        _kind(parts), exact, "BPEDecoder" in named, tuple(running), tuple(first), bool(strips)
    )


def _kind(parts: Sequence[Mapping[str, Any]]) -> str:
    named = [part["type"] for part in parts]
    if "ByteLevel" in named:
        return "ByteLevel"
    marked = [part.get("replacement") or part.get("pattern") for part in parts]
    if "▁" in marked or {"String": "▁"} in marked:
        return "SentencePiece"
    return "+".join(named)


def _step(part: Mapping[str, Any]) -> Step | None:
    """What a part of a decoder does to a token in the middle of a text; None where unknown."""
    match part:
        case {"type": "ByteLevel"}:
            return _from_alphabet
        case {"type": "ByteFallback"}:
            return _from_hexadecimal
        case {"type": "Metaspace", "replacement": str(mark)}:
            return _replacing(mark, " ")
        case {"type": "Replace", "pattern": {"String": str(mark)}, "content": str(content)}:
            return _replacing(mark, content)
        case {"type": "BPEDecoder", "suffix": str(suffix)}:
            return _replacing(suffix, " ")
        case {"type": "WordPiece", "prefix": str(prefix), "cleanup": bool(cleanup)}:
            return _continuing(prefix, cleanup)
    return None


def _first_step(part: Mapping[str, Any]) -> Step | None:
    """What it does to the first token, where that differs."""
    match part:
        case {"type": "Metaspace", "replacement": str(mark), "prepend_scheme": scheme}:
            return None if scheme == "never" else _replacing(mark, "")
        case {"type": "WordPiece", "cleanup": bool(cleanup)}:
            return lambda token: _closed(token, cleanup)
    return None


def _bytes(token: str | bytes, steps: Sequence[Step]) -> bytes:
    """A token's bytes, which some tokenizers' tokens are already."""
    text = token
    for step in steps:
        if isinstance(text, bytes):
            return text
        text = step(text)
    return text if isinstance(text, bytes) else text.encode("utf-8", "replace")


def _from_alphabet(token: str) -> str | bytes:
    """Added tokens may have characters that are not in the alphabet."""
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()


def _from_hexadecimal(token: str) -> str | bytes:
    match = BYTE.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token


def _replacing(mark: str, content: str) -> Step:
    return lambda token: token.replace(mark, content)


def _continuing(prefix: str, cleanup: bool) -> Step:
    def step(token: str) -> str:
        if token.startswith(prefix):
            return _closed(token.removeprefix(prefix), cleanup)
        return _closed(f" {token}", cleanup)

    return step


def _closed(text: str, cleanup: bool) -> str:
    """Without the space before punctuation, where the decoder cleans up."""
    for spaced in _CLOSE if cleanup else ():
        text = text.replace(spaced, spaced.strip())
    return text
