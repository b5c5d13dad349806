"""Calls that a request asks for: the answer is JSON, whatever format the model was trained on."""

from __future__ import annotations

from .events import Arguments, Call, Content, Emit, Grammar, Reads, Source
from .json_calls import call_array


def required_calls(source: Source, emit: Emit) -> Reads:
    """A JSON array of calls."""
    char = yield from source.next_word()
    if char == "[":
        yield from call_array(source, emit)
    else:
        source.back(char)
    while char := (yield from source.next()):
        if not char.isspace():
            emit(Content(char))


def named_call(name: str) -> Grammar:
    """A JSON object: the arguments of the function of this name."""

    def grammar(source: Source, emit: Emit) -> Reads:
        char = yield from source.next_word()
        if char:
            emit(Call(name))
        while char:
            emit(Arguments(char))
            char = yield from source.next()

    return grammar
