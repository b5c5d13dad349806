"""Hermes' and Qwen's format: ``<tool_call>`` around a JSON object, as often as there are calls."""

from __future__ import annotations

from .events import Emit, Reads, Source
from .json_calls import call_object
from .spaced import Spaced

START, END = "<tool_call>", "</tool_call>"


def hermes(source: Source, emit: Emit) -> Reads:
    """The grammar of the format; see Qwen2.5's chat template."""
    content = Spaced(emit)
    while (yield from source.until(START, content.write)):
        source.record()
        if not (yield from call_object(source, content.calling)):
            content.write(START + source.recorded())
            continue
        source.recorded()
        char = yield from source.next_word()
        source.back(char)
        yield from source.takes(END)
    content.end()
