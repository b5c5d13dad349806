"""The text of an answer while its tokens come, up to the first stop string."""

from __future__ import annotations

import codecs
import copy
from collections.abc import Container, Sequence

from ...models.text.detokenizer import Detokenizer
from .request import ALL_TEXT, TextOptions
from .stop_strings import StopStrings

_utf8 = codecs.getincrementaldecoder("utf-8")


class AnswerText:
    """Reads an answer's tokens as they are asked for: each once, whatever their number.

    Args:
        detokenizer: of the formula's tokens.
        prompt: ids that the answer continues.
        stops: strings that end it. One that has the name of a special token in it is looked for in
            the text with the names of special tokens, the others in the text.
        until: a string that is counted in the text; or none.
        options: what is text.
        eos: ids that end it.

    Attributes:
        found: how often that has come, from left to right and without overlaps.
    """

    def __init__(
        self, detokenizer: Detokenizer, prompt: Sequence[int], stops: Sequence[str],
        until: str = "", options: TextOptions = ALL_TEXT, eos: Container[int] = (),
    ) -> None:  # fmt: skip
        self._detokenizer = detokenizer
        self._stream = detokenizer.stream(prompt)
        self._characters = _utf8("replace")
        self._characters.decode(detokenizer.unfinished(prompt))
        self._options = options
        self._names = {} if options.skip_special_tokens else {
            token: name.encode() for token, name in detokenizer.special.items()
        }  # fmt: skip
        self._hidden = () if options.include_stop else (options.stop_token_ids, eos)
        names = {*detokenizer.special.values()} if stops and not self._names else ()
        named = [stop for stop in stops if any(name in stop for name in names)]
        plain = [stop for stop in stops if stop not in named]
        self._stops = StopStrings(plain, options.include_stop) if plain else None
        self._named_stops = StopStrings(named, options.include_stop) if named else None
        self._bytes: list[bytes] = []  # per token
        self._old: list[str] = []  # pieces that were taken
        self._new: list[str] = []
        self._length = 0  # of all pieces
        self._cut: int | None = None  # where a stop string begins
        self._ended = False
        self.found, self._until, self._rest = 0, until, ""  # of the text, where it may have begun

    def read(self, tokens: Sequence[int]) -> bool:
        """Read the tokens that are new among all tokens so far.

        Returns:
            Whether a stop string has come.
        """
        for token in tokens[len(self._bytes) :]:
            text = self._text_of(token)
            self._bytes.append(text)
            if text:
                self._add(self._characters.decode(text))
            elif self._named_stops and (name := self._detokenizer.special.get(token)):
                self._cut_at(self._named_stops.add(name, hidden=True))
        return self._cut is not None

    def end(self, tokens: Sequence[int]) -> bool:
        """Read the last tokens; half a character is U+FFFD now. Returns as ``read``."""
        self.read(tokens)
        if not self._ended:
            self._ended, rest = True, self._stream.end()
            if rest:
                self._bytes[-1] += rest
            self._add(self._characters.decode(rest, final=True))
        return self._cut is not None

    def text(self) -> str:
        """The text of what was read."""
        return "".join((*self._old, *self._new))[: self._cut]

    def take(self) -> str:
        """The text since the last call that no later token changes."""
        new = "".join(self._new)
        size = self._settled() - (self._length - len(new))
        self._old.append(new[:size])
        self._new = [new[size:]]
        return self._old[-1]

    def shown(self, tokens: Sequence[int], start: int) -> list[tuple[str, bytes]]:
        """The tokens from a position on: each as a string by itself, and its bytes in the text."""
        pairs = zip(tokens[start:], self._bytes[start:], strict=True)
        return [(self._detokenizer.shown(token, text), text) for token, text in pairs]

    def alone(self, token: int) -> tuple[str, bytes]:
        """A token that was not drawn, as ``shown``."""
        return self._detokenizer.alone(token)

    def copied(self) -> AnswerText:
        """The same text, to be continued in another way."""
        other = copy.copy(self)
        for name in ("_stream", "_characters", "_stops", "_named_stops", "_bytes", "_old", "_new"):
            setattr(other, name, copy.copy(getattr(self, name)))
        return other

    def _text_of(self, token: int) -> bytes:
        """The bytes that the next token adds."""
        stops, eos = self._hidden or ((), ())
        if token in stops:
            return b""
        text = self._stream.step(token)
        return text if token in eos else self._names.get(token, text)

    def _add(self, piece: str) -> None:
        if piece:
            self._new.append(piece)
            self._length += len(piece)
            if self._until:
                *before, rest = (self._rest + piece).split(self._until)
                self.found += len(before)
                self._rest = rest[max(0, len(rest) - len(self._until) + 1) :]
            for stops in (self._stops, self._named_stops):
                if stops is not None:
                    self._cut_at(stops.add(piece))

    def _cut_at(self, position: int | None) -> None:
        early = len(self._bytes) <= self._options.min_tokens > 0
        if position is not None and not early:
            self._cut = position if self._cut is None else min(self._cut, position)

    def _settled(self) -> int:
        """Characters that no later token changes."""
        if self._cut is not None or self._ended:
            return self._length if self._cut is None else self._cut
        known = [stops for stops in (self._stops, self._named_stops) if stops is not None]
        return min((stops.settled() for stops in known), default=self._length)
