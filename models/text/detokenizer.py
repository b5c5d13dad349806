"""Text from tokens, one after another, as it continues a prompt.

A token is bytes, by its tokenizer's own decoder, and a text is the bytes of its tokens, read as
UTF-8. A tokenizer whose decoder is not of that form decodes short windows of tokens instead.
Special tokens are no text. What a token costs does not depend on how many there are.
"""

from __future__ import annotations

import codecs
from collections.abc import Container, Sequence
from typing import Any, Protocol

from .token_bytes import special_ids
from .token_decoder import token_decoder

BORDER = 8  # tokens before an answer, or before the next token, that decide how it is read
_BROKEN = "\N{REPLACEMENT CHARACTER}"
_utf8 = codecs.getincrementaldecoder("utf-8")


class DecodeStream(Protocol):
    """The bytes of an answer's tokens."""

    def step(self, token: int) -> bytes:
        """The bytes that the next token adds; none for a special one."""

    def end(self) -> bytes:
        """The bytes that waited for a token that did not come."""


class Detokenizer:
    """Decodes answers with one tokenizer of transformers.

    Attributes:
        special: the special tokens, by id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.special = {i: str(tokenizer.convert_ids_to_tokens(i)) for i in special_ids(tokenizer)}
        self._unknown = getattr(tokenizer, "unk_token_id", None)
        self._decoder = token_decoder(tokenizer)
        self._running: dict[int, bytes] = dict.fromkeys(self.special, b"")

    def stream(self, prompt: Sequence[int]) -> DecodeStream:
        """A stream of an answer's tokens.

        Args:
            prompt: ids that the answer continues. After a special token, or nothing, an answer is a
                text of its own, without the space that some tokenizers write before a first word.
        """
        border = self._border(prompt)
        if not border or (border[-1] in self.special and border[-1] != self._unknown):
            border = []
        if self._decoder.exact:
            return _TableStream(self, border, self._decoder.spaces_words)
        return _WindowStream(self._tokenizer, self.special, border)

    def _border(self, prompt: Sequence[int]) -> list[int]:
        """The last tokens of a prompt, as many as it takes for one of them to be text."""
        size = BORDER
        while size < len(prompt) and not any(token not in self.special for token in prompt[-size:]):
            size += BORDER
        return list(prompt[-size:])

    def unfinished(self, prompt: Sequence[int]) -> bytes:
        """The first bytes of a character that a prompt ends within; an answer's text has it all."""
        if not self._decoder.exact:
            return b""  # windows see to it
        decoder = _utf8("replace")
        decoder.decode(self._joined(prompt[-BORDER:]))
        return decoder.getstate()[0]

    def encode(self, text: str) -> list[int]:
        """The ids of a text that continues another, without special tokens.

        Where the tokenizer writes a space of its own before a first word, that is the text's space.
        """
        ids = self._encoded(text)
        if text.startswith(" ") and self._joined(ids) == f" {text}".encode():
            shorter = self._encoded(text[1:])
            return shorter if self._joined(shorter) == text.encode() else ids
        return ids

    def running(self, token: int) -> bytes:
        """The bytes of a token in the middle of a text."""
        text = self._running.get(token)
        if text is None:
            name = self._tokenizer.convert_ids_to_tokens(token)
            text = self._running[token] = b"" if name is None else self._decoder.running(name)
        return text

    def first(self, token: int) -> bytes:
        """The bytes of a token that a text begins with."""
        return self._decoder.first(self._tokenizer.convert_ids_to_tokens(token))

    def shown(self, token: int, text: bytes) -> str:
        """A token whose bytes in a text are these, as a string of its own; special ones by name.

        Bytes that are no character are U+FFFD.
        """
        if token in self.special:
            return self.special[token]
        return text.decode("utf-8", "replace") if text else str(self._tokenizer.decode([token]))

    def alone(self, token: int) -> tuple[str, bytes]:
        """A token as a string of its own, and its bytes in the middle of a text."""
        if token in self.special:
            return self.special[token], b""
        if not self._decoder.exact:
            text = str(self._tokenizer.decode([token]))
            return text, text.encode()
        raw = self.running(token)
        return self.shown(token, raw), raw

    def _encoded(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _joined(self, ids: Sequence[int]) -> bytes:
        return b"".join(map(self.running, ids))


class _TableStream:
    """Looks tokens up."""

    def __init__(self, detokenizer: Detokenizer, border: Sequence[int], spaces_words: bool) -> None:
        self._running, self._detokenizer = detokenizer.running, detokenizer
        self._first = not border
        self._spaces_words = spaces_words
        self._space = b""  # after the last word, unwritten
        if spaces_words:
            self._without_space(b"".join(map(self._running, border)))

    def step(self, token: int) -> bytes:
        text = self._running(token)
        if self._first and text:
            self._first, text = False, self._detokenizer.first(token)
        return self._without_space(text) if self._spaces_words and text else text

    def end(self) -> bytes:
        return b""

    def _without_space(self, text: bytes) -> bytes:
        written = self._space + text.removesuffix(b" ")
        self._space = b" " if text.endswith(b" ") else b""
        return written


class _WindowStream:
    """Decodes the last few tokens with the next one, as the difference to them without it."""

    def __init__(self, tokenizer: Any, special: Container[int], border: Sequence[int]) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._window = tuple(token for token in border if token not in special)
        self._read = len(self._window)  # tokens of the window whose text is written
        self._written = self._decoded(self._window).rstrip(_BROKEN)

    def step(self, token: int) -> bytes:
        if token in self._special:
            return b""
        self._window = (*self._window, token)
        text = self._decoded(self._window)
        full = len(self._window) - self._read >= BORDER
        return b"" if text.endswith(_BROKEN) and not full else self._write(text, full)

    def end(self) -> bytes:
        return self._write(self._decoded(self._window))

    def _write(self, text: str, full: bool = False) -> bytes:
        new = text[len(self._written) :]
        if new or full:
            self._window = self._window[self._read :]
            self._read, self._written = len(self._window), self._decoded(self._window)
        return new.encode("utf-8", "replace")

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode([*ids], skip_special_tokens=True)
        return text
