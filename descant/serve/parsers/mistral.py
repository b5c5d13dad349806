"""Mistral's formats: ``[TOOL_CALLS]`` before a JSON array of calls, or, since its eleventh
tokenizer, before the name of each, with ``[ARGS]`` or nothing before its arguments."""

from __future__ import annotations

from .events import Arguments, Call, Emit, Reads, Source
from .json_calls import call_array, call_object, json_value
from .spaced import Spaced

LONGEST = 256  # characters of a name, and of what stands between it and the arguments
START, ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"


def mistral(source: Source, emit: Emit) -> Reads:
    """The grammar of both formats."""
    content = Spaced(emit)
    while (yield from source.until(START, content.write)):
        char = yield from source.next_word()
        if char == "[":
            yield from call_array(source, content.calling)
            continue
        source.back(char)
        if char == "{":
            source.record()
            called = yield from call_object(source, content.calling)
            text = source.recorded()
            if not called:
                content.write(START + text)
            continue
        yield from _named(source, content)
    content.end()


def _named(source: Source, content: Spaced) -> Reads:
    """A name, and arguments that are an object."""
    written = ""
    while (char := (yield from source.next())) not in ("", "{", "\n") and len(written) < LONGEST:
        written += char
    name = written.partition(ID)[0].removesuffix(ARGS).strip()
    if char != "{" or not name:
        content.write(START + written + char)
        return
    content.calling(Call(name))
    source.back(char)
    yield from json_value(source, lambda text: content.calling(Arguments(text)))
