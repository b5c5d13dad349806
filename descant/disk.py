"""How files are written: whole or not at all, and on the disk when they are said to be.

A leaf like ``errors``: whatever writes a file uses this. A file or folder is made under a temporary
name beside its own, synced, and renamed; a journal's lines are appended. What the disk refuses
becomes a ``DiskError``.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import DescantError, short_message

NEW = ".new-"  # what a temporary name begins with
KEPT = "what is finished is kept, and the same command resumes there"
_ROOM, _RIGHTS = "make room there", "make it writable, or give another place"
_CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _RIGHTS),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    errno.EIO: "look at the disk, or give another place",
}
_WORDS = ("iostream error", "inline_container", "PytorchStreamWriter")  # of torch.save
_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors, tokenizers
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}  # folders that cannot be synced


class DiskError(DescantError):
    """A file that cannot be written or read, and what to do about it.

    Attributes:
        resumes: whether the message says that the same command resumes.
    """

    resumes = False

    def __str__(self) -> str:
        return short_message("; ".join([*map(str, self.args), *([KEPT] if self.resumes else [])]))


@contextmanager
def resumable() -> Iterator[None]:
    """Around what resumes when it is started again: an error of the disk says so."""
    try:
        yield
    except DiskError as error:
        error.resumes = True
        raise


@contextmanager
def saving(file: Path) -> Iterator[None]:
    """Around writing a file, or a folder of files: a failure is a ``DiskError`` that names it."""
    try:
        yield
    except Exception as error:
        earlier: BaseException | None = (
            error  # a library may stumble over its own while it tidies up
        )
        while earlier is not None and not _is_of_writing(earlier, file):
            earlier = earlier.__context__
        if earlier is None or isinstance(error, DescantError):
            raise
        raise disk_error(file, "written", earlier) from error


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Around reading a file: an error of the system is a ``DiskError`` that names it."""
    try:
        yield
    except OSError as error:
        raise disk_error(file, "read", error) from error


@contextmanager
def written(file: Path, shared: bool = False) -> Iterator[Path]:
    """A temporary path for a file or a folder, which becomes ``file`` at once, at the end.

    The path is beside it and has its ending. An earlier process's, which was killed, is removed.

    Args:
        shared: several processes may write the same content; the first one's stays.

    Raises:
        DiskError: it cannot be written; what was there is there still.
    """
    own = f"{uuid.uuid4().hex[:8]}-" if shared else ""
    partial = file.with_name(f"{NEW}{own}{file.name}")
    with saving(file):
        make_folder(file.parent)
        _remove(partial)
        try:
            yield partial
            _sync_all(partial)
            try:
                os.replace(partial, file)
            except OSError:
                if not (shared and file.is_dir()):
                    raise
                _remove(partial)
            _sync_folder(file.parent)
        except BaseException:
            with suppress(OSError):
                _remove(partial)
            raise


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files are moved into ``folder`` at the end.

    Raises:
        DiskError: they cannot be written.
    """
    partial = folder / f"{NEW}files"
    with saving(folder):
        make_folder(folder)
        _remove(partial)
        partial.mkdir()
        try:
            yield partial
            _sync_all(partial)
            for file in sorted(partial.iterdir()):
                os.replace(file, folder / file.name)
            _sync_folder(folder)
        finally:
            with suppress(OSError):
                _remove(partial)


def replace(file: Path, text: str) -> None:
    """Write a text file at once: it holds the old text or the new.

    Raises:
        DiskError: it cannot be written.
    """
    with written(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


def append(file: Path, data: bytes, sync_now: bool = True) -> None:
    """Append lines to a file; half a last line is cut off first.

    They are handed to the system when this returns, and survive a kill of the process; they survive
    a loss of power once they are synced.

    Raises:
        DiskError: they cannot be written; no earlier line is lost.
    """
    check_regular(file)
    with saving(file):
        is_new = not file.exists()
        cut_half_line(file)
        with file.open("ab", buffering=0) as lines:
            while data:  # a disk that fills up may take only a part, and report it later
                data = data[os.write(lines.fileno(), data) :]
            if sync_now:
                os.fsync(lines.fileno())
        if is_new:
            _sync_folder(file.parent)


def cut_half_line(file: Path) -> None:
    """Cut a file after its last end of a line, if something follows it.

    Raises:
        DiskError: it cannot be cut.
    """
    with saving(file):
        size = file.stat().st_size if file.is_file() else 0
        if not size:
            return
        with file.open("rb") as lines:
            end, block = size, b""
            while end and b"\n" not in block:  # from the end, for a long file costs nothing so
                start = max(0, end - (1 << 16))
                lines.seek(start)
                block, end = lines.read(end - start), start
        complete = end + block.rfind(b"\n") + 1
        if complete < size:
            os.truncate(file, complete)


def check_regular(file: Path) -> None:
    """Refuse what is there and is no file, such as a folder or a pipe, which would wait for ever.

    Raises:
        DiskError: so.
    """
    if file.is_dir() or file.is_fifo() or file.is_socket():
        raise DiskError(f"{file} is no file", "remove it, or give another place")


def sync(file: Path) -> None:
    """Bring what was written to a file onto the disk.

    Raises:
        DiskError: the disk reports an error.
    """
    with saving(file):
        if file.exists():
            _sync_all(file)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        DiskError: it cannot be made, or is a file.
    """
    if folder.is_dir():
        return
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(folder.parent)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left in a folder that no process writes to now."""
    with saving(folder):
        for file in folder.glob(f"{NEW}*"):
            _remove(file)


def disk_error(file: Path, verb: str, error: BaseException) -> DiskError:
    """The error that ``file`` cannot be ``written`` or ``read``, with its reason and its cure."""
    code = _code_of(error)
    if verb == "written" and code is None and _is_full(file):
        code = errno.ENOSPC
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    reason = said if code is None else os.strerror(code)
    cure = _CURES.get(code or 0, "")
    if verb == "read" and cure == _RIGHTS:
        cure = "make it readable"
    return DiskError(f"{file} cannot be {verb}: {reason}", *([cure] if cure else []))


def _is_of_writing(error: BaseException, file: Path) -> bool:
    """Whether an error tells that ``file``, or what becomes it, could not be written."""
    if isinstance(error, DescantError):
        return False
    if isinstance(error, OSError):
        if not isinstance(error.filename, (str, Path)):
            return True
        path, named = file.absolute(), Path(error.filename).absolute()
        is_partial = str(named).startswith(str(path.parent / NEW))
        return is_partial or named.is_relative_to(path) or path.is_relative_to(named)
    return _code_of(error) is not None or any(word in str(error) for word in _WORDS)


def _code_of(error: BaseException) -> int | None:
    """The system's number of an error, which libraries in Rust put into their words."""
    if isinstance(error, OSError):
        return error.errno
    match = _RUST.search(str(error))
    return int(match[1]) if match else None


def _is_full(file: Path) -> bool:
    with suppress(OSError):
        nearest = next(path for path in (file, *file.absolute().parents) if path.exists())
        return shutil.disk_usage(nearest).free < 1 << 20
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_all(path: Path) -> None:
    """Sync a file, or every file and folder of a folder."""
    if path.is_dir():
        for entry in path.iterdir():
            _sync_all(entry)
        _sync_folder(path)
        return
    flags = os.O_RDWR if os.name == "nt" else os.O_RDONLY
    number = os.open(path, flags)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sync_folder(folder: Path) -> None:
    """Sync the names in a folder, where the system can."""
    if os.name == "nt":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(number)
