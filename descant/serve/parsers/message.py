"""A message's text: a thought first, if there is one, and then content and calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .events import Content, Emit, Event, Grammar, Parser, Reads, Source, Thought, merged


def reasoning(start: str, end: str, opened: bool) -> Grammar:
    """A thought between marks, at the beginning of an answer, and then content.

    Args:
        start, end: the marks.
        opened: whether the prompt ends in a thought.
    """

    def grammar(source: Source, emit: Emit) -> Reads:
        if not opened:
            source.record()
            char = yield from source.next_word()
            source.back(char)
            before = source.recorded()
        if opened or (yield from source.takes(start)):
            yield from source.until(end, lambda char: emit(Thought(char)))
        else:
            emit(Content(before))
        while char := (yield from source.next()):
            emit(Content(char))

    return grammar


class MessageParser:
    """Reads the text of one answer of a chat, in pieces.

    Args:
        thought: the grammar of a thought before the content; None for none.
        calls: the grammar of calls in the content; None for none.
    """

    def __init__(self, thought: Grammar | None, calls: Grammar | None) -> None:
        self._thought = None if thought is None else Parser(thought)
        self._calls = None if calls is None else Parser(calls)

    def feed(self, text: str) -> Sequence[Event]:
        """What is known after more of the text."""
        events = [Content(text)] if self._thought is None else self._thought.feed(text)
        return merged([*self._inner(events)])

    def end(self) -> Sequence[Event]:
        """What is known at the end of the text."""
        events = [] if self._thought is None else self._thought.end()
        last = [] if self._calls is None else [self._calls]
        return merged([*self._inner(events), *(event for each in last for event in each.end())])

    def _inner(self, events: Sequence[Event]) -> Iterator[Event]:
        for event in events:
            if self._calls is not None and isinstance(event, Content):
                yield from self._calls.feed(event.text)
            else:
                yield event
