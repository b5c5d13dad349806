"""Failures of a command: a message on standard error, and an exit code.

Errors that descant raises, errors of the disk and an interrupt are printed in one line; anything
else is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rich.console import Console

MISTAKE, STOPPED = 2, 130  # exit codes
_SYSTEM_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}
P = ParamSpec("P")
R = TypeVar("R")


def run_app(app: Callable[[], Any]) -> None:
    """Call an application; an error that a user can fix is printed, and exits with 2."""
    try:
        app()
    except (TypeError, ValueError) as error:
        if not ours(error):
            raise
        _print(str(error))
        sys.exit(MISTAKE)
    except OSError as error:
        if error.errno not in _SYSTEM_ERRORS:
            raise
        _print(f"{error.filename or 'a file cannot be written'}: {error.strerror}")
        sys.exit(MISTAKE)


def resumable(command: Callable[P, R]) -> Callable[P, R]:
    """A command that resumes when it is started again; an interrupt says so."""

    @functools.wraps(command)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return command(*arguments, **named)
        except KeyboardInterrupt:
            _print("stopped; what is finished is kept, and the same command resumes there")
            sys.exit(STOPPED)

    return run


def ours(error: BaseException) -> bool:
    """Whether this package raised it, with a message for the user."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("descant")


def _print(line: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)
