"""What a token stands for: bytes of running text, as its tokenizer's own decoder puts them there.

Which decoder that is, the tokenizer is asked; no string is looked at to guess it. A text's first
word is no special case here: the space that some tokenizers put before it belongs to whoever
encodes a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Step = Callable[[str], "str | bytes"]
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_CLOSE = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")  # of tokenizers


@dataclass(frozen=True)
class TokenBytes:
    """The tokens of one tokenizer that are text.

    Attributes:
        texts: the bytes of each id that stands for text.
        kind: the decoder, as the tokenizer describes it; "" where it does not, and a token is
            taken for the text that it is written as.
        special: the ids of special tokens, by their names.
        written: bytes to the string that the tokenizer's model splits; None where it cannot be
            asked.
        model: the tokenizer's model, or None.
    """

    texts: Mapping[int, bytes]
    kind: str
    special: Mapping[str, int]
    written: Callable[[bytes], str] | None
    model: Any

    @cached_property
    def ids(self) -> dict[bytes, list[int]]:
        """The ids of each text; one that is written as a byte, ``<0x41>``, comes last."""
        found: dict[bytes, list[int]] = {}
        for number, text in self.texts.items():
            found.setdefault(text, []).append(number)
        return found

    def spelled(self, text: bytes) -> tuple[int, ...]:
        """The tokens that stand for these bytes in running text; none where there are none.

        They are those of the tokenizer's own model, where it is asked and keeps every byte;
        elsewhere the fewest.
        """
        if text in self.ids:
            return (self.ids[text][0],)
        if self.written is not None:
            try:
                split = self.model.tokenize(self.written(text))
            except (UnicodeDecodeError, ValueError):  # half a character, or nothing unknown to say
                split = []
            made = tuple(token.id for token in split)
            if b"".join(self.texts.get(token, b"") for token in made) == text:
                return made
        return self._fewest(text)

    def _fewest(self, text: bytes) -> tuple[int, ...]:
        best: dict[int, tuple[int, ...]] = {len(text): ()}
        for start in reversed(range(len(text))):
            ways = [
                (self.ids[part][0], *best[end])
                for end in range(len(text), start, -1)
                if end in best and (part := text[start:end]) in self.ids
            ]
            if ways:
                best[start] = min(ways, key=len)
        return best.get(0, ())


def token_bytes(tokenizer: Any, size: int) -> TokenBytes:
    """What the tokens of a tokenizer stand for.

    Args:
        tokenizer: of transformers; one without a backend is taken at its word.
        size: ids from here on are left out: the model has no rows for them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    kind, steps = _steps(json.loads(decoder.__getstate__()) if decoder is not None else {})
    vocabulary = {token: i for token, i in tokenizer.get_vocab().items() if i < size}
    apart = special_ids(tokenizer)
    texts = {
        number: _bytes_of(token, steps)
        for token, number in sorted(vocabulary.items(), key=lambda item: (_last(item[0]), item[1]))
        if number not in apart
    }
    special = {str(token): i for token, i in vocabulary.items() if i in apart}
    written = _WRITTEN.get(kind)
    model = backend.model if written is not None and backend is not None else None
    return TokenBytes({i: text for i, text in texts.items() if text}, kind, special, written, model)


def special_ids(tokenizer: Any) -> set[int]:
    """The ids of tokens that mark a text and are no part of it."""
    found = set(getattr(tokenizer, "all_special_ids", ()))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return found | {number for number, token in added.items() if token.special}


def _last(token: str | bytes) -> bool:
    return isinstance(token, str) and _BYTE.fullmatch(token) is not None


def _bytes_of(token: str | bytes, steps: Sequence[Step]) -> bytes:
    """A token's bytes; a tokenizer whose tokens are bytes has said them already."""
    made = token
    for step in steps:
        if isinstance(made, bytes):
            return made
        made = step(made)
    return made if isinstance(made, bytes) else made.encode("utf-8", "replace")


def _steps(decoder: Mapping[str, Any]) -> tuple[str, list[Step]]:
    """A decoder's kind, and what it does to one token in the middle of a text.

    Whatever it does to the beginning or the end of a whole text is left out.
    """
    parts = decoder.get("decoders", [decoder]) if decoder else []
    named = [part["type"] for part in parts]
    steps: list[Step] = []
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
                pass  # of the whole text
            case _:
                return "", []
    if "ByteLevel" in named:
        return "ByteLevel", steps
    marked = [part.get("replacement") or part.get("pattern") for part in parts]
    if "▁" in marked or {"String": "▁"} in marked:
        return "SentencePiece", steps
    return "+".join(named), steps


def _alphabet() -> dict[str, int]:
    """GPT-2's character for each byte: its own where it is printed, others from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    places = {byte: 256 + i for i, byte in enumerate(others)} | {byte: byte for byte in printed}
    return {chr(place): byte for byte, place in places.items()}


_ALPHABET = _alphabet()
_CHARACTERS = {byte: character for character, byte in _ALPHABET.items()}


def _from_alphabet(token: str) -> str | bytes:
    """Tokens that were added as they are have characters that are not of the alphabet."""
    if all(character in _ALPHABET for character in token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()


def _from_hexadecimal(token: str) -> str | bytes:
    found = _BYTE.fullmatch(token)
    return bytes([int(found[1], 16)]) if found else token


def _replacing(mark: str, content: str) -> Step:
    return lambda token: token.replace(mark, content)


def _continuing(prefix: str, cleanup: bool) -> Step:
    def step(token: str) -> str:
        if token.startswith(prefix):
            return token.removeprefix(prefix)
        text = f" {token}"
        for apart in _CLOSE if cleanup else ():
            text = text.replace(apart, apart.strip())
        return text

    return step


_WRITTEN: dict[str, Callable[[bytes], str]] = {
    "ByteLevel": lambda text: "".join(_CHARACTERS[byte] for byte in text),
    "SentencePiece": lambda text: text.decode().replace(" ", "▁"),
}
