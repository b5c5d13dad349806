"""Parsers that are driven a character at a time: what comes out, and what they read from."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Content:
    """Text of the message."""

    text: str


@dataclass(frozen=True)
class Thought:
    """Text of the reasoning."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call begins."""

    name: str


@dataclass(frozen=True)
class Arguments:
    """More of the arguments of the last call, as JSON text."""

    text: str


Event: TypeAlias = Content | Thought | Call | Arguments
Emit: TypeAlias = Callable[[Event], None]
Reads: TypeAlias = Generator[None, str, None]


class Source:
    """The characters of a text, to be read one by one; "" at its end, and from then on."""

    def __init__(self) -> None:
        self._back: list[str] = []
        self._read: list[str] | None = None
        self._over = False

    def next(self) -> Generator[None, str, str]:
        """The next character."""
        char = self._back.pop() if self._back else "" if self._over else (yield)
        self._over = self._over or not char
        if self._read is not None and char:
            self._read.append(char)
        return char

    def next_word(self) -> Generator[None, str, str]:
        """The next character that is no white space."""
        char = " "
        while char.isspace():
            char = yield from self.next()
        return char

    def back(self, text: str) -> None:
        """Have these characters come again, the first of them next."""
        self._back += reversed(text)
        if self._read is not None and text:
            del self._read[-len(text) :]

    def record(self) -> None:
        """Remember what is read from here on."""
        self._read = []

    def recorded(self) -> str:
        """What was read since then, which is remembered no more."""
        text, self._read = "".join(self._read or ()), None
        return text

    def until(self, mark: str, write: Callable[[str], None]) -> Generator[None, str, bool]:
        """Read up to and with a mark, and write what is before it; whether the mark came."""
        held = ""
        while char := (yield from self.next()):
            held += char
            while held and not mark.startswith(held):
                write(held[0])
                held = held[1:]
            if held == mark:
                return True
        for char in held:
            write(char)
        return False

    def takes(self, mark: str) -> Generator[None, str, bool]:
        """Read a mark if it comes next; else nothing is read."""
        read = ""
        while read != mark and mark.startswith(read):
            char = yield from self.next()
            if not char:
                break
            read += char
        if read == mark:
            return True
        self.back(read)
        return False


Grammar: TypeAlias = Callable[[Source, Emit], Reads]


class Parser:
    """Reads a text by a grammar, in pieces of any size.

    Args:
        grammar: a generator that reads a source to its end, and emits what it finds.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._events: list[Event] = []
        self._reads = grammar(Source(), self._events.append)
        self._over = False
        self._send(None)

    def feed(self, text: str) -> Sequence[Event]:
        """What is known after more of the text."""
        for char in text:
            self._send(char)
        return self._taken()

    def end(self) -> Sequence[Event]:
        """What is known at the end of the text."""
        self._send("")
        return self._taken()

    def _send(self, char: str | None) -> None:
        if self._over:
            return
        try:
            self._reads.send(char)  # type: ignore[arg-type]
        except StopIteration:
            self._over = True

    def _taken(self) -> Sequence[Event]:
        events, self._events[:] = merged(self._events), []
        return events


def merged(events: Sequence[Event]) -> list[Event]:
    """Events with neighbours of one kind joined, and none without a text."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Call):
            joined.append(event)
        elif type(last) is type(event) and not isinstance(last, Call | None):
            joined[-1] = type(last)(last.text + event.text)
        elif event.text:
            joined.append(event)
    return joined
