"""Stop strings, looked for in text that comes in pieces: only its end is ever looked at."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds the first of several strings.

    Args:
        strings: at least one, none of them empty.
        include: whether the string that is found is part of the text.
    """

    def __init__(self, strings: Sequence[str], include: bool = False) -> None:
        self._include = include
        self._strings = tuple(strings)
        self._kept = max(map(len, strings)) - 1  # characters that a string may have begun in
        self._end = ""  # of the text: that many characters
        self._length = 0  # of the text up to where that begins
        self._hidden: tuple[tuple[int, int], ...] = ()  # where in it, and characters
        self._hidden_before = 0

    def add(self, piece: str, hidden: bool = False) -> int | None:
        """Add the next piece of the text.

        Args:
            piece: of any length.
            hidden: whether it is looked at and does not count as text.

        Returns:
            How many characters of text come before the first string that ends in this piece, or
            with it; None where there is none.
        """
        text = self._end + piece
        if hidden:
            self._hidden += ((self._length + len(self._end), len(piece)),)
        known = len(self._end)
        ends = [
            (at, at + len(string) * self._include)
            for string in self._strings
            if (at := text.find(string, max(0, known - len(string) + 1))) >= 0
        ]
        found = None if not ends else self._visible(self._length + min(ends)[1])
        cut = max(0, len(text) - self._kept)
        self._length, self._end = self._length + cut, text[cut:]
        while self._hidden and sum(self._hidden[0]) <= self._length:
            self._hidden_before += self._hidden[0][1]
            self._hidden = self._hidden[1:]
        return found

    def settled(self) -> int:
        """Characters of text that are part of no string, whatever comes."""
        for size in range(len(self._end), 0, -1):
            end = self._end[-size:]
            if any(string.startswith(end) for string in self._strings):
                return self._visible(self._length + len(self._end) - size)
        return self._visible(self._length + len(self._end))

    def _visible(self, position: int) -> int:
        """Characters of text before a position among all characters."""
        hidden = sum(max(0, min(size, position - start)) for start, size in self._hidden)
        return position - self._hidden_before - hidden
