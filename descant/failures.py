"""Failures of a command: a message on standard error, and an exit code.

Errors that descant raises, errors of the disk and an interrupt are printed in one line; anything
else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from rich.console import Console

MISTAKE, STOPPED = 2, 130  # exit codes
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
_SYSTEM_ERRORS = {
    *DISK_ERRORS,
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}


def run_app(app: Callable[[], Any]) -> None:
    """Call an application; an error that a user can fix is printed, and exits with 2."""
    try:
        app()
    except (TypeError, ValueError, OSError) as error:
        problem = str(error)
        if isinstance(error, OSError) and error.errno in _SYSTEM_ERRORS:
            problem = f"{error.filename or 'a file cannot be written'}: {error.strerror}"
        elif isinstance(error, OSError) or not ours(error):
            raise
        _print(problem)
        sys.exit(MISTAKE)


@contextmanager
def resumable() -> Iterator[None]:
    """Around a command that resumes when it is started again; an interrupt says so."""
    try:
        yield
    except KeyboardInterrupt:
        _print("stopped; what is finished is kept, and the same command resumes there")
        sys.exit(STOPPED)


def ours(error: BaseException) -> bool:
    """Whether this package raised it, with a message for the user."""
    modules = [frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)]
    return bool(modules) and str(modules[-1]).startswith("descant")


def _print(line: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)
