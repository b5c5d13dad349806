"""Content around calls: white space that only parts calls from it, and from each other, is none."""

from __future__ import annotations

from .events import Call, Content, Emit, Event


class Spaced:
    """Writes content, with white space held back until it is known to be part of a text.

    Args:
        emit: takes what is known.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit, self._held, self._begun, self._called = emit, "", False, False

    def write(self, text: str) -> None:
        """More of the content."""
        for char in text:
            self._held += char
            if self._begun or not char.isspace():
                self._emit(Content(self._held))
                self._held, self._begun = "", True

    def calling(self, event: Event) -> None:
        """What a call emits; a call ends a text."""
        if isinstance(event, Call):
            self._held, self._begun, self._called = "", False, True
        self._emit(event)

    def end(self) -> None:
        """The end of the answer; white space is its content where there is no call."""
        if not self._called:
            self._emit(Content(self._held))
        self._held = ""
