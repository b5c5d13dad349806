"""The process of checks: what a stranger's text may take any time or memory for, tried here.

It may be killed, and another takes its place. It holds no weights and imports no torch. Where the
system can fork, it comes of a server that has imported what checks need, in milliseconds.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from ...imports import import_words
from ...runtime.constraints.limits import MEMORY, ConstraintError
from ...show.quiet import quiet_imports
from .checks import Check
from .encoders import Parts
from .loop import portable


def run_checks(connection: Connection, nice: int = 0, imports: Sequence[str] = ()) -> None:
    """Answer each check with its result, or with an error as ``Failure``, until the parent ends.

    More than its seconds of computing end the process. None stands for a result that cannot be
    sent.

    Args:
        connection: to the parent; gets "" first. Then come pairs: the parts that are new here,
            pickled, by their numbers, and a check.
        nice: by how much others go before, where processors are few.
        imports: the modules with words of one's own.
    """
    quiet_imports()
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    import_words(imports)
    _bound_memory()
    if nice and hasattr(os, "nice"):
        os.nice(nice)
    parts = Parts()
    with suppress(EOFError, OSError):
        connection.send("")
        while True:
            outcome = _outcome(parts, *connection.recv())
            try:
                connection.send(outcome)
            except OSError:
                raise
            except Exception:  # words of one's own may not pickle
                connection.send(None)


class Failure:
    """What a check has raised, as it goes to the other process."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _outcome(parts: Parts, new: Mapping[int, bytes], check: Check) -> Any:
    timed = hasattr(signal, "ITIMER_PROF")  # of this process's own time, however busy the machine
    if timed:
        signal.setitimer(signal.ITIMER_PROF, check.seconds)
    try:
        parts.add(new)
        return check.run(parts)
    except MemoryError:
        return Failure(check.too_much())
    except Exception as error:
        return Failure(error if isinstance(error, ConstraintError) else portable(error))
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_PROF, 0)


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    most = MEMORY
    with suppress(ValueError, OSError):
        with open("/proc/self/statm") as file:
            most += int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
