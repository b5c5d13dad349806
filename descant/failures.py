"""What a user sees of a failure: a message on standard error, and an exit code.

What this package says of a user's mistake, a disk that is full and a key that stops a command are
told in words; anything else is a mistake of ours, and keeps its traceback.
"""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from rich.console import Console

MISTAKE, STOPPED = 2, 130  # exit codes
_OF_THE_SYSTEM = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
}
P = ParamSpec("P")
R = TypeVar("R")


def told(app: Callable[[], Any]) -> None:
    """Call an application; what a user can see to exits with 2 and is told."""
    try:
        app()
    except (TypeError, ValueError) as error:
        if not ours(error):
            raise
        _say(str(error))
        sys.exit(MISTAKE)
    except OSError as error:
        if error.errno not in _OF_THE_SYSTEM:
            raise
        _say(f"{error.filename or 'a file cannot be written'}: {error.strerror}")
        sys.exit(MISTAKE)


def resumable(command: Callable[P, R]) -> Callable[P, R]:
    """A command that goes on when it is started again; a key that stops it says so."""

    @functools.wraps(command)
    def run(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return command(*arguments, **named)
        except KeyboardInterrupt:
            _say("stopped; what is finished is kept, and the same command goes on from there")
            sys.exit(STOPPED)

    return run


def ours(error: BaseException) -> bool:
    """Whether this package raised it, as words for the user, and not something underneath."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("descant")


def _say(line: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)
