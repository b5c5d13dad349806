"""A disk that fails when it is told to, for a process of this one.

The process is forked, and the kernel hands each of its system calls that write (open, write, sync,
rename, mkdir, remove, …) to this one, which lets it pass, answers it with an error, does half of
it, or kills the process: seccomp's user notifications (Linux 5.6 and later, no privilege needed).
So it makes no difference who writes, Python, safetensors, torch, pyarrow or a child.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import json
import os
import platform
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# name: numbers on x86_64 and aarch64 (-1: not there), and where its path, folder or file stands
_FILE, _PATH, _AT = "file", "path", "at"
CALLS: dict[str, tuple[int, int, str, int]] = {
    "open": (2, -1, _PATH, 0), "openat": (257, 56, _AT, 0), "creat": (85, -1, _PATH, 0),
    "write": (1, 64, _FILE, 0), "pwrite64": (18, 68, _FILE, 0), "writev": (20, 66, _FILE, 0),
    "pwritev": (296, 70, _FILE, 0), "sendfile": (40, 71, _FILE, 0),
    "copy_file_range": (326, 285, _FILE, 2), "fallocate": (285, 47, _FILE, 0),
    "ftruncate": (77, 46, _FILE, 0), "truncate": (76, 45, _PATH, 0),
    "fsync": (74, 82, _FILE, 0), "fdatasync": (75, 83, _FILE, 0),
    "rename": (82, -1, _PATH, 1), "renameat": (264, 38, _AT, 2), "renameat2": (316, 276, _AT, 2),
    "mkdir": (83, -1, _PATH, 0), "mkdirat": (258, 34, _AT, 0),
    "link": (86, -1, _PATH, 1), "linkat": (265, 37, _AT, 2),
    "symlink": (88, -1, _PATH, 1), "symlinkat": (266, 36, _AT, 1),
    "unlink": (87, -1, _PATH, 0), "unlinkat": (263, 35, _AT, 0), "rmdir": (84, -1, _PATH, 0),
}  # fmt: skip
KINDS = {
    **dict.fromkeys(("open", "openat", "creat"), "open"),
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "sendfile"), "write"),
    **dict.fromkeys(("copy_file_range", "fallocate"), "write"),
    **dict.fromkeys(("ftruncate", "truncate"), "truncate"),
    **dict.fromkeys(("fsync", "fdatasync"), "sync"),
    **dict.fromkeys(("rename", "renameat", "renameat2"), "rename"),
    **dict.fromkeys(("mkdir", "mkdirat"), "mkdir"),
    **dict.fromkeys(("link", "linkat", "symlink", "symlinkat"), "link"),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), "remove"),
}
ERRORS = {  # what a disk says to each
    "open": errno.EACCES, "write": errno.ENOSPC, "truncate": errno.EIO, "sync": errno.EIO,
    "rename": errno.EIO, "mkdir": errno.ENOSPC, "link": errno.EMLINK, "remove": errno.EROFS,
}  # fmt: skip
_MACHINE = {"x86_64": (0, 0xC000003E, 317, 438), "aarch64": (1, 0xC00000B7, 277, 438)}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # ioctls of a notification of 80 bytes, an answer of 24
_CONTINUE = 1
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True)
class Operation:
    """One call that writes: its kind, the file relative to the watched folder, and its bytes."""

    kind: str
    file: str
    size: int = 0


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the n-th operation, counted from 0.

    Attributes:
        how: ``fail`` with ``code`` (an errno; 0 is the kind's own), ``full`` (no room for any write
            from here on), ``short`` (half of each write from here on is done, and said), ``kill``
            (before it) or ``torn`` (half of a write, then killed).
    """

    n: int
    how: str
    code: int = 0


@dataclass
class Outcome:
    """What became of a process: its exit code or minus the signal, its words, what it wrote."""

    code: int = 0
    out: str = ""
    err: str = ""
    operations: list[Operation] = field(default_factory=list)


Watch = Callable[[int, Operation], None]


def watched(
    act: Callable[[], tuple[int, str, str]],
    folder: Path,
    fault: Fault | None = None,
    before: Watch = lambda n, operation: None,
) -> Outcome:
    """Do something in a process of its own, whose writes below a folder are watched.

    Args:
        act: gives an exit code, what was printed, and the errors.
        before: is called before each operation takes place.
    """
    ours, theirs = socket.socketpair()
    told, tell = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        ours.close()
        os.close(told)
        _be_watched(act, theirs, tell)
    theirs.close()
    os.close(tell)
    outcome = Outcome()
    _, (listener, *_), *_ = socket.recv_fds(ours, 1, 1)
    try:
        _Supervisor(child, listener, str(folder), fault, before, outcome).run()
    finally:
        os.close(listener)
        ours.close()
    with os.fdopen(told, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    outcome.code = os.waitstatus_to_exitcode(status)
    if said:
        outcome.code, outcome.out, outcome.err = json.loads(said)
    return outcome


def _be_watched(act: Callable[[], tuple[int, str, str]], link: socket.socket, tell: int) -> None:
    """The forked process: install the filter, hand its listener over, act, and end."""
    gc.freeze()  # what is the parent's is not looked at, and its pages stay shared
    try:
        listener = _install()
        socket.send_fds(link, [b"x"], [listener])
        os.close(listener)
        try:
            said = act()
        except BaseException:  # this process may not become a second pytest
            said = (70, "", traceback.format_exc())
        data = json.dumps(said).encode()
        while data:
            data = data[os.write(tell, data) :]
    finally:
        os._exit(0)


def _numbers() -> tuple[int, int, int, int]:
    return _MACHINE[platform.machine()]


def _install() -> int:
    """Install the filter in this process; the descriptor that its notifications come from."""
    column, arch, seccomp, _ = _numbers()
    opens = {CALLS[name][column]: at for name, at in (("open", 1), ("openat", 2))}
    code: list[tuple[int, int, int, int]] = [
        (0x20, 0, 0, 4), (0x15, 1, 0, arch), (0x06, 0, 0, 0x7FFF0000), (0x20, 0, 0, 0),
    ]  # fmt: skip
    for number, argument in opens.items():  # only where the flags say that it may write
        if number >= 0:
            code += [
                (0x15, 0, 4, number), (0x20, 0, 0, 16 + 8 * argument), (0x45, 0, 1, _WRITES),
                (0x06, 0, 0, 0x7FC00000), (0x06, 0, 0, 0x7FFF0000),
            ]  # fmt: skip
    for number, *_ in ([row[column]] for row in CALLS.values()):
        if number >= 0 and number not in opens:
            code += [(0x15, 0, 1, number), (0x06, 0, 0, 0x7FC00000)]
    code.append((0x06, 0, 0, 0x7FFF0000))
    program = b"".join(struct.pack("HBBI", *row) for row in code)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    if _libc.prctl(38, 1, 0, 0, 0):  # no new privileges
        raise OSError(ctypes.get_errno(), "prctl")
    listener = int(_libc.syscall(seccomp, 1, 8, header))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


class _Supervisor:
    """Answers the notifications of one process and of its children."""

    def __init__(
        self, child: int, listener: int, folder: str, fault: Fault | None, before: Watch,
        outcome: Outcome,
    ) -> None:  # fmt: skip
        self.child, self.listener, self.folder = child, listener, folder.rstrip("/")
        self.fault, self.before, self.outcome = fault, before, outcome
        self.names = {row[_numbers()[0]]: name for name, row in CALLS.items()}

    def run(self) -> None:
        """Answer until the process has ended."""
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        while True:
            [(_, events)] = poll.poll()
            if not events & select.POLLIN:
                return
            notification = bytearray(80)
            try:
                fcntl.ioctl(self.listener, _RECEIVE, notification, True)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                raise
            name, pid, args, id = self._read(notification)
            value, error_number, flags = self._answer(name, pid, args)
            answer = bytearray(struct.pack("QqiI", id, value, -error_number, flags))
            try:
                fcntl.ioctl(self.listener, _SEND, answer)
            except OSError as error:
                if error.errno != errno.ENOENT:  # it was killed
                    raise

    def _read(self, notification: bytearray) -> tuple[str, int, tuple[int, ...], int]:
        id, pid, _, number, _, _, *args = struct.unpack("QIIiIQ6Q", notification)
        return self.names[number], pid, tuple(args), id

    def _answer(self, name: str, pid: int, args: tuple[int, ...]) -> tuple[int, int, int]:
        """The value, the error and the flags of an answer."""
        file = self._file(name, pid, args)
        if file is None or not f"{file}/".startswith(f"{self.folder}/"):
            return 0, 0, _CONTINUE
        kind, n = KINDS[name], len(self.outcome.operations)
        if kind in ("mkdir", "remove") and os.path.lexists(file) == (kind == "mkdir"):
            return 0, 0, _CONTINUE  # it is there, or is not: that is said, however the disk is
        size = args[2] if name in ("write", "pwrite64") else 0
        operation = Operation(kind, os.path.relpath(file, self.folder or "/"), size)
        self.before(n, operation)
        self.outcome.operations.append(operation)
        fault = self.fault
        if fault is None or n < fault.n:
            return 0, 0, _CONTINUE
        if fault.how == "full":
            return (0, errno.ENOSPC, 0) if kind == "write" else (0, 0, _CONTINUE)
        if fault.how == "short":
            written = self._half(name, pid, args)
            return (written, 0, 0) if written else (0, 0, _CONTINUE)
        if n > fault.n:
            return 0, 0, _CONTINUE
        if fault.how == "fail":
            return 0, fault.code or ERRORS[kind], 0
        if fault.how == "torn":
            self._half(name, pid, args)
        os.kill(self.child, signal.SIGKILL)
        return 0, errno.EIO, 0

    def _half(self, name: str, pid: int, args: tuple[int, ...]) -> int:
        """Do half of a write of at least two bytes in its process's name; the bytes written."""
        if name not in ("write", "pwrite64") or args[2] < 2:
            return 0
        data = _memory(pid, args[1], args[2] // 2)
        pidfd = os.pidfd_open(self.child)
        file = int(_libc.syscall(_numbers()[3], pidfd, int(args[0]), 0))
        os.close(pidfd)
        if file < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        try:
            return os.write(file, data) if name == "write" else os.pwrite(file, data, args[3])
        finally:
            os.close(file)

    def _file(self, name: str, pid: int, args: tuple[int, ...]) -> str | None:
        """The path that a call is about; None where it is no file."""
        *_, way, at = CALLS[name]
        if way == _FILE:
            return _link(f"/proc/{pid}/fd/{args[at]}")
        folder = f"/proc/{pid}/cwd"
        if way == _AT:
            number = ctypes.c_int(args[at] & 0xFFFFFFFF).value
            folder, at = (folder if number == -100 else f"/proc/{pid}/fd/{number}"), at + 1
        path = _text(pid, args[at])
        return os.path.normpath(os.path.join(_link(folder) or "/", path))


def _link(file: str) -> str | None:
    try:
        target = os.readlink(file).removesuffix(" (deleted)")
    except OSError:
        return None
    return target if target.startswith("/") else None


def _memory(pid: int, address: int, size: int) -> bytes:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(size)


def _text(pid: int, address: int) -> str:
    data = b""
    while b"\0" not in data:
        page = 4096 - (address + len(data)) % 4096  # a read may not cross into what is not mapped
        data += _memory(pid, address + len(data), page)
    return os.fsdecode(data.partition(b"\0")[0])


def _works() -> Any:
    """Whether this machine has such notifications; a reason where it has not."""
    if sys.platform != "linux" or platform.machine() not in _MACHINE:
        return f"no notifications of seccomp on {sys.platform} {platform.machine()}"
    child = os.fork()
    if not child:
        try:
            _install()
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "" if code == 0 else f"seccomp: {os.strerror(code)}"


NOT_HERE = _works()
needs_a_failing_disk = pytest.mark.skipif(bool(NOT_HERE), reason=NOT_HERE or "it works here")
