"""One writer per output, by a lock that ends with its process, however that ends.

The lock is the system's (``flock``), on a hidden file that stays; who holds it is in a file beside.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ..disk import make_folder, saving
from ..inputs.runfile import RunFileError

LOCK = ".lock"  # of a folder; of a file, after its name
WAIT = 30.0  # seconds, for what is written at once
PAGES = "pages"  # what is made from a run's lines at any time: tables, pages, exports
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_log = logging.getLogger(__name__)


@contextmanager
def writing(output: Path, wait: float = 0.0) -> Iterator[None]:
    """Hold an output, a folder that is there or a file: nobody else writes it inside of this.

    Where the file system has no locks, a warning says so, and nothing is held.

    Args:
        output: what is written.
        wait: seconds that another writer is waited for.

    Raises:
        RunFileError: another process writes it; names its host, its number and since when.
    """
    lock_file = lock_of(output)
    make_folder(lock_file.parent)
    lock = _acquired(lock_file, output, wait)
    if lock is None:
        yield
        return
    holder = _holder_file(lock_file)
    try:
        with saving(holder):
            holder.write_text(json.dumps(_this_process()), encoding="utf-8")
        yield
    finally:
        with suppress(OSError):  # it only informs
            holder.unlink(missing_ok=True)
        lock.release()


def check_free(output: Path) -> None:
    """Raise a ``RunFileError`` where another process writes to an output at this moment."""
    if lock_of(output).exists():
        with writing(output):
            pass


def lock_of(output: Path) -> Path:
    """The file that is locked for an output."""
    return output / LOCK if output.is_dir() else output.with_name(f".{output.name}{LOCK}")


def is_lock(file: Path) -> bool:
    """Whether a file is a lock, or says who holds one."""
    return file.name.startswith(".") and f"{LOCK}." in f"{file.name}."


def _acquired(lock_file: Path, output: Path, wait: float) -> Any:
    """The lock; None where the file system has none that ends with its process."""
    from filelock import FileLock, SoftFileLock, Timeout

    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        cure = "wait for its end, or give another output"
        problem = f"another process writes to {output}{_holder(lock_file)}"
        raise RunFileError(f"{problem}; {cure}") from None
    except NotImplementedError:
        return _without(output)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            with saving(lock_file):
                raise
        return _without(output)
    if isinstance(lock, SoftFileLock):  # a file that would outlive a process that is killed
        lock.release()
        return _without(output)
    return lock


def _without(output: Path) -> None:
    _log.warning(
        "%s is on a file system without locks: nothing keeps another process from writing there "
        "at the same time", output,
    )  # fmt: skip


def _holder_file(lock_file: Path) -> Path:
    return lock_file.with_name(f"{lock_file.name}.holder")


def _this_process() -> dict[str, Any]:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": since}


def _holder(lock_file: Path) -> str:
    """Who holds a lock, for messages; empty in the moment before it has said so."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        held = json.loads(_holder_file(lock_file).read_text(encoding="utf-8"))
        return f": process {held['pid']} on {held['host']}, since {held['since']}"
    return ""
