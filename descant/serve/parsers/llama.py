"""Llama 3's JSON format: an answer that is calls, ``{"name": "…", "parameters": {…}}``, with ``;``
between them, and ``<|python_tag|>`` before them or not."""

from __future__ import annotations

from .events import Emit, Reads, Source
from .json_calls import call_object
from .spaced import Spaced

TAG = "<|python_tag|>"


def llama3_json(source: Source, emit: Emit) -> Reads:
    """The grammar of the format; see the chat template of Llama 3.1."""
    content = Spaced(emit)
    source.record()
    char = yield from source.next_word()
    source.back(char)
    before = source.recorded()
    if (yield from source.takes(TAG)):
        before = ""
    while True:
        source.record()
        called = yield from call_object(source, content.calling)
        text = source.recorded()
        if not called:
            content.write(before + text)
            break
        before = char = yield from source.next_word()
        if char not in (";", ","):
            content.write(char)
            break
    while char := (yield from source.next()):
        content.write(char)
    content.end()
