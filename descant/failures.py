"""Failures of a command: a message on standard error, and an exit code.

``DescantError``, errors of the disk, too little memory and an interrupt are printed in one line.
Anything else is a bug: it says so, its trace goes to a file, and the exit code is another.
"""

from __future__ import annotations

import errno
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from . import disk
from .errors import DescantError
from .show.terminal import Screen

MISTAKE, BUG, STOPPED = 2, 70, 130  # exit codes; 70 is EX_SOFTWARE of sysexits.h
_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_SYSTEM_ERRORS = {
    *_OF_WRITING,
    *(errno.EIO, errno.EMFILE, errno.ENFILE),
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}
_LIBRARIES = ("torch", "transformers", "accelerate")  # whose versions a bug report needs


class Traces:
    """Where the traces of bugs go: to a file each, or to the screen (``--debug``)."""

    on_screen = False


def run_app(app: Callable[[], Any]) -> None:
    """Call an application; an error that a user can fix is printed, and exits with 2.

    Anything else exits with 70, and a line says where its trace is.
    """
    Traces.on_screen = False
    try:
        app()
    except Exception as error:
        if (problem := for_user(error)) is not None:
            _print(problem)
            sys.exit(MISTAKE)
        _print(f"this is a bug in descant, or in a library that it uses: {summary(error)}")
        _print(_traced(error))
        sys.exit(BUG)


@contextmanager
def resumable() -> Iterator[None]:
    """Around a command that resumes when it is started again; an interrupt says so."""
    try:
        with disk.resumable():
            yield
    except KeyboardInterrupt:
        _print("stopped; what is finished is kept, and the same command resumes there")
        sys.exit(STOPPED)


def for_user(error: BaseException) -> str | None:
    """The message of an error that a user can do something about; None where it is a bug."""
    if isinstance(error, DescantError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
        verb = "written" if error.errno in _OF_WRITING else "read or written"
        return f"{error.filename or 'the output'} cannot be {verb}: {error.strerror}"
    memory = out_of_memory(error)
    return None if memory is None else str(memory)


def out_of_memory(error: BaseException) -> DescantError | None:
    """Too little memory, of the machine or of a GPU, as an error with a cure."""
    if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":
        return None  # torch's, by its name: this module imports no torch
    from .models import ModelError

    cure = "ask for fewer or shorter rows at once, or give the models a smaller dtype"
    return ModelError(f"there is too little memory: {_first_line(error)}", cure, topic="memory")


def summary(error: BaseException) -> str:
    """The type and the first line of an error."""
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _traced(error: Exception) -> str:
    """Write an error's trace where it belongs; a line that says what to do with it."""
    trace = "".join(traceback.format_exception(error))
    ask = "please report it"
    if Traces.on_screen:
        return f"{trace}{_versions()}\n{ask} with this trace"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="descant-bug-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"{_versions()}\n\n{trace}")
    except OSError:
        return f"{trace}{_versions()}\n{ask} with this trace"
    return f"its trace is in {file.name} (or on the screen, with descant --debug); {ask} with it"


def _versions() -> str:
    found = [f"Python {platform.python_version()} on {platform.platform()}"]
    for name in ("descant", *_LIBRARIES):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _print(line: str) -> None:
    Screen(stderr=True).write(line)
