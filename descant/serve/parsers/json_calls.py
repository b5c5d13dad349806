"""A call as a JSON object: ``{"name": "…", "arguments": {…}}``, told while it is being written."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator

from .events import Arguments, Call, Content, Emit, Source

ARGUMENTS = ("arguments", "parameters")
DEPTH = 64  # of brackets in arguments
_CLOSING = {"{": "}", "[": "]"}


def call_object(source: Source, emit: Emit) -> Generator[None, str, bool]:
    """Read one object; whether it is a call. The call begins where its name is known.

    What is no call emits nothing; a call that breaks off has the arguments that it has.
    """
    name, held, has_arguments = "", list[str](), False

    def write(text: str) -> None:
        if name:
            emit(Arguments(text))
        else:
            held.append(text)

    char = yield from source.next_word()
    if char != "{":
        source.back(char)
        return False
    char = yield from source.next_word()
    while char != "}":
        if char != '"':
            source.back(char)
            return bool(name)
        key = yield from _string(source)
        char = yield from source.next_word()
        if char != ":":
            source.back(char)
            return bool(name)
        char = yield from source.next_word()
        if key == "name" and char == '"' and not name:
            name = (yield from _string(source)) or ""
            if not name:
                return False
            emit(Call(name))
            emit(Arguments("".join(held)))
        elif key in ARGUMENTS and not has_arguments:
            has_arguments = True
            if char == '"':  # JSON, written as a string
                write((yield from _string(source)) or "")
            else:
                source.back(char)
                if not (yield from json_value(source, write)):
                    return bool(name)
        elif char == '"':
            yield from _string(source)
        else:
            source.back(char)
            if not (yield from json_value(source, lambda text: None)):
                return bool(name)
        char = yield from source.next_word()
        if char == ",":
            char = yield from source.next_word()
        elif char != "}":
            source.back(char)
            return bool(name)
    if name and not has_arguments:
        emit(Arguments("{}"))
    return bool(name)


def call_array(source: Source, emit: Emit) -> Generator[None, str, None]:
    """Read calls in a JSON array, whose bracket has been read; what is no call is content."""
    char = yield from source.next_word()
    if char == "]":
        return
    source.back(char)
    while True:
        source.record()
        if not (yield from call_object(source, emit)):
            emit(Content(source.recorded()))
            return
        source.recorded()
        char = yield from source.next_word()
        if char != ",":
            if char != "]":
                source.back(char)
            return


def json_value(source: Source, write: Callable[[str], None]) -> Generator[None, str, bool]:
    """Read a JSON value, and write it as it is; whether it is whole. Its brackets are checked."""
    open_brackets = list[str]()
    while char := (yield from source.next()):
        if char == '"':
            write(char)
            if not (yield from _copied_string(source, write)):
                return False
        elif char in _CLOSING:
            if len(open_brackets) == DEPTH:
                return False
            open_brackets.append(_CLOSING[char])
            write(char)
        elif open_brackets and char == open_brackets[-1]:
            open_brackets.pop()
            write(char)
        elif char in "}]":
            source.back(char)
            return not open_brackets  # behind a number, or a bracket that was never opened
        elif not open_brackets and (char == "," or char.isspace()):
            source.back(char)
            return True
        else:
            write(char)
            continue
        if not open_brackets:
            return True
    return False


def _copied_string(source: Source, write: Callable[[str], None]) -> Generator[None, str, bool]:
    """The rest of a string, with its quotation mark."""
    while char := (yield from source.next()):
        write(char)
        if char == '"':
            return True
        if char == "\\":
            write((yield from source.next()))
    return False


def _string(source: Source) -> Generator[None, str, str | None]:
    """What a string stands for, whose first quotation mark has been read; None for no string."""
    read = ['"']
    if not (yield from _copied_string(source, read.append)):
        return None
    try:
        return str(json.loads("".join(read), strict=False))
    except ValueError:
        return None
