"""Whatever happens to a stranger's file: the damages, and what came of reading it.

``damages`` is all that is done to one reader's file, ``outcome`` what the reader makes of it, and
``complaint`` what is wrong with that. ``readers.py`` is the table of readers.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descant import DescantError

SECONDS = 10  # in which every reader ends
HUGE, DEEP = 8_000_000, 100_000  # characters of a key or value, and brackets
MESSAGE, QUOTED = 2_000, 200  # characters of an error, and of a word in it
SUSPECT = "suspect"  # the name under which models are declared that are read from a damaged file
KINDS = (
    "empty", "truncated", "flipped", "wrong type", "huge", "deep", "encoding", "directory", "FIFO",
    "no permission",
)  # fmt: skip
WRONG: tuple[Any, ...] = ("x", -1, 10**30, 1e308, True, [[{}]], {"x": "y"})
INSIDE: tuple[Any, ...] = ("x", -1, [])  # what is put into what is in a key
PLACES = 40, 10  # keys of a file, and of each object or list in it
NOBODY = 65534


class Hung(BaseException):
    """A reader did not end in time; no library catches this."""


@contextlib.contextmanager
def ends(seconds: float = SECONDS) -> Iterator[None]:
    """Fail what does not end in time: at once where Python runs, at its end where a library does.

    What never comes back to Python is ended by pytest-timeout, with the traces of all threads.
    """

    def hung(*_: Any) -> None:
        raise Hung(f"not ended after {seconds} seconds")

    before, start = signal.signal(signal.SIGALRM, hung), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, seconds)
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
        make: writes a good file into a folder, with what it needs beside it, and gives its path.
        read: reads it as a user does; raises a ``DescantError``, or gives what was read.
        keys: it is JSON, or YAML written as JSON, each of whose keys gets wrong values.
        text: it is text at all.
        lines: a part of it is a file of its kind, as of lines, CSV or a template.
        plain: any text is a file of its kind.
        optional: what is not there is not read.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    keys: bool = False
    text: bool = True
    lines: bool = False
    plain: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Damage:
    """Something that is done to a file: one of ``KINDS``, how it is called, and how it is done."""

    kind: str
    name: str
    apply: Callable[[Path], None]


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
    yield _written("huge", "NULs after it", content + bytes(HUGE))
    yield Damage("directory", "in its place", Path.mkdir)
    yield Damage("FIFO", "in its place", os.mkfifo)
    yield Damage("no permission", "to read it", lambda file: _locked(file, content))
    if reader.text:
        yield from _texts(content)
    if reader.keys:
        yield from _wrong_keys(json.loads(content))


def _texts(content: bytes) -> Iterator[Damage]:
    yield _written("huge", "letters", b"x" * HUGE)
    yield _written("huge", "a key", b'{"' + b"k" * HUGE + b'": 1}')
    yield _written("huge", "a number", b'{"k": ' + b"9" * 100_000 + b"}")
    yield _written("huge", "a value", b'{"k": "' + b"v" * HUGE + b'"}')
    yield _written("huge", "a value of words", b'{"k": "' + b"v v " * (HUGE // 4) + b'"}')
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


def _wrong_keys(content: Any) -> Iterator[Damage]:
    """Each key of an object, and of the objects and lists in it, with wrong values, and without."""
    for path, parent, key in _places(content, ()):
        good, name = parent[key], ".".join(map(str, path))
        for wrong in WRONG if len(path) == 1 else INSIDE:
            parent[key] = wrong
            yield _json("wrong type", f"{name} = {json.dumps(wrong)}", content)
        parent[key] = good
        if isinstance(parent, dict):
            items = [*parent.items()]
            del parent[key]
            yield _json("wrong type", f"no {name}", content)
            parent.clear()
            parent.update(items)
    if isinstance(content, dict):
        for added in ("k" * HUGE, "k " * (HUGE // 2), "a\nb", ""):
            name = f"another key of {len(added)} characters"
            yield _json("huge", name, {**content, added: 1})


def _places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Where values stand: their path, what holds them, and under which key; two of each list."""
    keys = list(value) if isinstance(value, dict) else range(min(2, len(value)))
    for key in list(keys)[: PLACES[bool(path)]]:
        yield (*path, key), value, key
        if isinstance(value[key], (dict, list)) and value[key] and len(path) < 3:
            yield from _places(value[key], (*path, key))


def _written(kind: str, name: str, content: bytes) -> Damage:
    return Damage(kind, name, lambda file: (file.write_bytes(content), None)[1])


def _json(kind: str, name: str, content: Any) -> Damage:
    return _written(kind, name, json.dumps(content).encode())


def _locked(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    file.chmod(0)


def remove(file: Path) -> None:
    """Remove whatever is in a file's place."""
    if file.is_dir():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    """What root runs here may read only what everybody may."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@dataclass(frozen=True)
class Outcome:
    """What came of reading: a message in words, or what was read."""

    message: str | None = None
    value: Any = None


def outcome(reader: Reader, file: Path, by: Any = None) -> Outcome:
    """Read a file; whatever is no error of ours is raised, and so is a reader that hangs.

    Args:
        by: who reads: a context, such as ``nobody()``.
    """
    with by or contextlib.nullcontext(), ends():
        try:
            return Outcome(value=reader.read(file))
        except DescantError as error:
            return Outcome(message=str(error))


def complaint(
    reader: Reader, damage: Damage, file: Path, found: Outcome, good: Any, without: Any
) -> str | None:
    """What is wrong with an outcome; None where it is as it should be.

    Args:
        good: what is read from the good file.
        without: what is read where there is no file; None if that is an error.
    """
    if found.message is not None:
        return _wrong_words(found.message, file)
    if damage.kind in ("flipped", "wrong type"):  # another file of the kind, maybe: what it says
        return None
    if damage.kind in ("directory", "FIFO") and reader.optional and found.value == without:
        return None
    if damage.kind in ("empty", "directory", "FIFO", "no permission"):
        return "it was read"
    same = found.value == good or (damage.kind == "truncated" and reader.lines) or reader.plain
    if damage.kind == "huge" and reader.optional:  # any object is a file of the kind
        same = same or found.value == without
    return None if same else f"something else was read: {found.value!r:.200}"


def _wrong_words(message: str, file: Path) -> str | None:
    """What is wrong with a message: it names what was read, and quotes little of it."""
    if not any(name in message for name in (file.name, str(file.parent), SUSPECT)):
        return f"it does not say which file: {message:.300}"
    if len(message) > MESSAGE or any(len(word) > QUOTED for word in message.split()):
        return f"it quotes too much: {message:.300}"
    return None


def failures(reader: Reader, folder: Path) -> tuple[list[str], Counter[str]]:
    """What is wrong with a reader, and how many damages of each kind it has seen."""
    file = reader.make(folder)
    content, good = file.read_bytes(), reader.read(file)  # imports what it needs, however long
    remove(file)
    without = outcome(reader, file).value if reader.optional else None
    wrong: list[str] = []
    seen: Counter[str] = Counter()
    for damage in damages(reader, content):
        remove(file)
        damage.apply(file)
        by = nobody() if damage.kind == "no permission" else None
        try:
            found = outcome(reader, file, by)
            problem = complaint(reader, damage, file, found, good, without)
        except (Exception, Hung) as error:
            problem = f"{type(error).__name__}: {error!s:.300}"
        if problem is not None:
            wrong.append(f"{damage.kind}, {damage.name}: {problem}")
        seen[damage.kind] += 1
    return wrong, seen
