"""Every reader of a stranger's file, and everything that is done to such a file.

``READERS`` is the table: how a good file is made, and how it is read as a user reads it. A new
reader joins by a line. ``damages`` is what is done to the file; ``outcome`` is what came of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from descant import DescantError

SECONDS = 10  # in which every reader ends
HUGE = 8_000_000  # characters of a key or a value
DEEP = 100_000
MESSAGE = 2_000  # characters of an error at most
QUOTED = 200  # of one quotation in it
WRONG: tuple[Any, ...] = (None, "x", -1, 0, 10**30, 1e308, True, [], {}, [[{}]], {"x": "y"})


class Hung(BaseException):
    """A reader did not end in time; no library catches this."""


@contextlib.contextmanager
def ends(seconds: float = SECONDS) -> Iterator[None]:
    """Fail what does not end in time: at once where Python runs, at its end where a library does.

    What never comes back to Python is ended by pytest-timeout, with the traces of all threads.
    """

    def hung(*_: Any) -> None:
        raise Hung(f"not ended after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    start = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if time.monotonic() - start > seconds:
        raise Hung(f"ended after {time.monotonic() - start:.0f} seconds")


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        name: for the names of tests.
        make: writes a good file, with what it needs beside it, and gives its path.
        read: reads it as a user does; raises a ``DescantError``, or gives what was read.
        keys: the file is JSON or YAML of keys, each of which gets wrong values.
        knows_its_end: a part of the file is never taken for the file.
        knows_its_content: no flipped byte may go unnoticed or change what is read, but those
            inside of texts and numbers.
        beside: the file may be missing, be it that no such file is there or a directory is.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    keys: bool = False
    knows_its_end: bool = True
    optional: bool = False
    text: bool = True


@dataclass(frozen=True)
class Damage:
    """Something that is done to a file.

    Attributes:
        kind: which of the kinds of the issue's list.
        name: for messages.
        apply: does it.
        refused: no reader may take the file.
    """

    kind: str
    name: str
    apply: Callable[[Path], None]

    @cached_property
    def label(self) -> str:
        return f"{self.kind}: {self.name}"


def damages(reader: Reader, content: bytes) -> Iterator[Damage]:
    """All that is done to a reader's file; ``content`` is that of the good one."""
    yield _written("empty", "no byte", b"")
    size = 1
    while size < len(content):
        yield _written("truncated", f"{size} of {len(content)} bytes", content[:size])
        size *= 2
    yield _written("truncated", "without the last byte", content[:-1])
    draw = random.Random(reader.name)
    for at in sorted({0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(8))}):
        flipped = bytearray(content)
        flipped[at] ^= 1 << draw.randrange(8)
        yield _written("flipped", f"a bit of byte {at}", bytes(flipped))
    yield _written("huge", "zeros after it", content + bytes(HUGE))
    yield Damage("directory", "in its place", _as_directory)
    yield Damage("FIFO", "in its place", _as_fifo)
    if reader.text:
        yield from _texts(content)
    if reader.keys:
        yield from _wrong_keys(reader, json.loads(content))


def _texts(content: bytes) -> Iterator[Damage]:
    yield _written("huge", "letters", b"x" * HUGE)
    yield _written("huge", "a key", b'{"' + b"k" * HUGE + b'": 1}')
    yield _written("huge", "a number", b'{"k": ' + b"9" * 100_000 + b"}")
    yield _written("huge", "a value", b'{"k": "' + b"v" * HUGE + b'"}')
    yield _written("huge", "lines", b"x\n" * 100_000)
    yield _written("deep", "lists", b"[" * DEEP)
    yield _written("deep", "lists that end", b"[" * DEEP + b"]" * DEEP)
    yield _written("deep", "objects", b'{"a":' * DEEP + b"1" + b"}" * DEEP)
    text = content.decode()
    yield _written("encoding", "UTF-16", text.encode("utf-16"))
    yield _written("encoding", "UTF-16 without its mark", text.encode("utf-16-le"))
    yield _written("encoding", "Latin-1", content + "é".encode("latin-1"))
    yield _written("encoding", "UTF-8 with its mark", b"\xef\xbb\xbf" + content)
    yield _written("encoding", "NUL", content + b"\0")


def _wrong_keys(reader: Reader, content: Any) -> Iterator[Damage]:
    """Every key of an object, and of the objects and lists in it, with a wrong value; or none."""
    for path, parent, key in _places(content, ()):
        good = parent[key]
        for wrong in WRONG:
            parent[key] = wrong
            name = f"{'.'.join(map(str, path))} = {json.dumps(wrong)}"
            yield _written("wrong type", name, json.dumps(content).encode())
        parent[key] = good
        if isinstance(parent, dict):
            items = [*parent.items()]
            del parent[key]
            yield _written("wrong type", f"no {path[-1]}", json.dumps(content).encode())
            parent.clear()
            parent.update(items)
    if isinstance(content, dict):
        for key in ("k" * HUGE, "k " * (HUGE // 2), "a\nb", ""):
            with_key = json.dumps({**content, key: 1}).encode()
            yield _written("huge", f"another key of {len(key)} characters", with_key)


def _places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Where values stand: their path, what holds them, and under which key; two of each list."""
    keys = list(value) if isinstance(value, dict) else range(min(2, len(value)))
    for key in list(keys)[:40]:
        yield (*path, key), value, key
        if isinstance(value[key], (dict, list)) and value[key] and len(path) < 3:
            yield from _places(value[key], (*path, key))


def _written(kind: str, name: str, content: bytes) -> Damage:
    return Damage(kind, name, lambda file: _write(file, content))


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _as_directory(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def _as_fifo(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


@dataclass(frozen=True)
class Outcome:
    """What came of reading: a message in words, or what was read."""

    message: str | None = None
    value: Any = None


def outcome(reader: Reader, file: Path) -> Outcome:
    """Read a file; whatever is no error of ours is raised, and so is a reader that hangs."""
    with ends():
        try:
            return Outcome(value=reader.read(file))
        except DescantError as error:
            return Outcome(message=str(error))


def check_message(message: str) -> None:
    """A message is short, and quotes little."""
    assert message.strip() and len(message) <= MESSAGE, len(message)
    for word in message.split():
        assert len(word) <= QUOTED, word[:300]
