"""The layer of faults finds each kind of bad writer, and lets a good one pass."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import test_writes
from commands import Case
from failing_disk import Fault, needs_a_failing_disk, watched
from test_writes import Undisturbed, check_failing, run_undisturbed

from descant.disk import DiskError, append, replace, resumable

pytestmark = needs_a_failing_disk
LINES = [f"line {number}\n".encode() for number in range(4)]


def good(folder: Path) -> None:
    with resumable():
        journal = folder / "out.jsonl"
        done = journal.read_bytes().count(b"\n") if journal.is_file() else 0
        for line in LINES[done:]:
            append(journal, b'{"text": "' + line.strip() + b'"}\n')
        replace(folder / "page.html", "<html></html>")


def in_place(folder: Path) -> None:
    """A file that is half written is taken for a finished one."""
    if not (folder / "out").exists():
        (folder / "out").write_bytes(b"".join(LINES))


def doubling(folder: Path) -> None:
    with (folder / "out").open("ab", buffering=0) as file:
        for line in LINES:
            file.write(line)


def forgetful(folder: Path) -> None:
    """What is short is not written on."""
    file = os.open(folder / "out", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.write(file, b"".join(LINES))
    os.close(file)


def untidy(folder: Path) -> None:
    """A temporary file of a killed process stays."""
    partial = folder / f"out.{os.getpid()}"
    partial.write_bytes(b"".join(LINES))
    partial.replace(folder / "out")


def silent(folder: Path) -> None:
    try:
        untidy(folder)
    except OSError:
        return


class Tried(Case):
    """A function instead of a command."""

    def act(self, folder: Path) -> tuple[int, str, str]:
        write: Callable[[Path], None] = globals()[self.command]
        try:
            write(folder)
        except DiskError as error:
            return 2, "", str(error)
        except OSError:
            return 70, "", traceback.format_exc()
        return 0, "", ""


def tried(name: str, root: Path) -> Undisturbed:
    return run_undisturbed(Tried(name, (), lambda folder: None, resumes=name == "good"), root)


def found(test: Callable[[], None]) -> str:
    try:
        test()
    except AssertionError as error:
        return str(error)
    return ""


def every_test(name: str, root: Path) -> dict[str, str]:
    """What each test of the layer says of a writer, and "" where it is content."""
    one = tried(name, root)

    def of(name: str) -> Undisturbed:
        return one

    return {
        test: found(lambda test=test: getattr(test_writes, test)(name, of))
        for test in dir(test_writes)
        if test.startswith("test_a_")
    }


def test_a_good_writer_passes(tmp_path: Path) -> None:
    said = every_test("good", tmp_path)
    assert len(said) == 7 and not any(said.values()), said


@pytest.mark.parametrize(
    ("name", "test", "says"),
    [
        ("in_place", "test_a_process_that_is_killed", "out differs"),
        ("in_place", "test_a_disk_that_refuses", "Traceback"),
        ("doubling", "test_a_process_that_is_killed", "out differs"),
        ("forgetful", "test_a_disk_that_takes_half", ""),
        ("untidy", "test_a_process_that_is_killed", "other files"),
        ("silent", "test_a_disk_that_is_full", ""),
    ],
)
def test_a_bad_writer_is_found(name: str, test: str, says: str, tmp_path: Path) -> None:
    said = every_test(name, tmp_path)[test]
    assert said and says in said


def test_each_operation_can_fail(tmp_path: Path) -> None:
    """All of them, not only the first and the last of each file."""
    one = tried("good", tmp_path)
    kinds = {operation.kind for operation in one.operations}
    assert {"open", "write", "sync", "rename"} <= kinds
    for n in range(len(one.operations)):
        check_failing(one, Fault(n, "fail"))


def test_a_native_writer_is_seen(tmp_path: Path) -> None:
    """safetensors is Rust, torch C++, and a child is another process."""
    import subprocess

    import torch
    from safetensors.torch import save_file

    def act() -> tuple[int, str, str]:
        save_file({"a": torch.zeros(64)}, tmp_path / "a.safetensors")
        torch.save({"a": torch.zeros(64)}, tmp_path / "b.pt")
        subprocess.run(["sh", "-c", f"echo x > {tmp_path}/c"], check=True)
        return 0, "", ""

    done = watched(act, tmp_path)
    assert done.code == 0, done.err
    assert {"a.safetensors", "b.pt", "c"} <= {operation.file for operation in done.operations}
    assert sum(operation.kind == "write" for operation in done.operations) >= 3
