"""Whatever the disk does to a command: nothing is lost or doubled, and it is said in words.

A command runs once undisturbed, and then with a fault at its n-th operation: the disk refuses it,
or is full from there on, or takes half, or the process is killed. Then the same command runs again,
and the folder must hold what the undisturbed one left, and nothing more.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
from command_line import command
from commands import WRITES_NOTHING, Case, cases, contents
from failing_disk import Fault, Operation, Outcome, needs_a_failing_disk, watched

from descant.cli import app
from descant.disk import KEPT, NEW

pytestmark = needs_a_failing_disk
CASES = [
    pytest.param(name, marks=[pytest.mark.slow] if case.slow else [])
    for name, case in cases().items()
]


@dataclass
class Undisturbed:
    """A case, the folder that it begins with, what it writes, and what it leaves."""

    case: Case
    template: Path
    operations: list[Operation]
    states: dict[int, Path]
    left: dict[str, object]
    root: Path
    resumed: dict[str, bool] = field(default_factory=dict)  # folders that were tried already

    def folder(self, name: str) -> Path:
        """A new folder, as the case begins with it; its own name is always the same."""
        folder = self.root / name / "work"
        shutil.copytree(self.template, folder)
        return folder

    def disturbed(self, folder: Path, fault: Fault) -> Outcome:
        return watched(lambda: self.case.act(folder), folder, fault)

    def check_resumed(self, folder: Path, what: str) -> None:
        """Run the command again, and compare what it leaves, but for a state that was tried."""
        key = digest(folder)
        if key in self.resumed:
            return
        self.resumed[key] = True
        done = watched(lambda: self.case.act(folder), folder)
        finished = done.code == 2 and "is trained already" in done.err
        assert done.code == 0 or finished, f"{what}: {done.err}"
        left = contents(folder)
        assert list(left) == list(self.left), f"{what}: other files"
        for name, expected in self.left.items():
            assert left[name] == expected, f"{what}: {name} differs"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    known: dict[str, Undisturbed] = {}

    def of(name: str) -> Undisturbed:
        if name not in known:
            known[name] = run_undisturbed(cases()[name], tmp_path_factory.mktemp("case"))
        return known[name]

    yield of


def run_undisturbed(case: Case, root: Path) -> Undisturbed:
    template, folder = root / "template", root / "undisturbed" / "work"
    template.mkdir()
    case.prepare(template)
    warm = root / "warm"
    shutil.copytree(template, warm)
    case.act(warm)  # in this process, so that those forked from it need not import anything
    shutil.copytree(template, folder)
    states: dict[int, Path] = {}

    def keep(n: int, operation: Operation) -> None:
        states[n] = root / "states" / str(n) / "work"
        shutil.copytree(folder, states[n])

    done = watched(lambda: case.act(folder), folder, before=keep)
    assert done.code == 0, done.err
    return Undisturbed(case, template, done.operations, states, contents(folder), root)


EVERY = pytest.mark.skipif(
    "DESCANT_FAULTS" not in os.environ, reason="every operation takes half an hour: make faults"
)


def digest(folder: Path) -> str:
    """A hash of a folder's files, but for locks."""
    content = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if ".lock" not in file.name:
            content.update(f"{file.relative_to(folder)}\0".encode())
            content.update(file.read_bytes() if file.is_file() else b"/")
    return content.hexdigest()


def final(file: str) -> str:
    """The name that a file gets, or a star for one that a library has drawn."""
    file = re.sub(rf"{re.escape(NEW)}(?:files/|[0-9a-f]{{8}}-)?", "", file)
    return re.sub(r"\.tmp\w+|tmp\w{8}", "*", file)


def points(operations: Sequence[Operation]) -> list[int]:
    """The first and the last operation of each file, and of each kind on it."""
    first: dict[tuple[str, str], int] = {}
    last: dict[tuple[str, str], int] = {}
    for n, operation in enumerate(operations):
        first.setdefault((operation.kind, final(operation.file)), n)
        last[operation.kind, final(operation.file)] = n
    return sorted({*first.values(), *last.values()})


def sampled(one: Undisturbed) -> list[int]:
    """The first, the last, and one operation of each file, of all kinds in turn.

    Files whose names differ by numbers alone, as checkpoints do, count as one here, and so do the
    locks. Of the files, one in as many as the case says is in it.
    """
    operations = one.operations
    of_file: dict[str, list[int]] = {}
    for n in points(operations):
        name = re.sub(r"\d+", "#", final(operations[n].file))
        of_file.setdefault("lock" if ".lock" in name else name, []).append(n)
    turns = [numbers[turn % len(numbers)] for turn, numbers in enumerate(of_file.values())]
    return sorted({0, *turns[:: one.case.sample], len(operations) - 1})


def check_words(outcome: Outcome, operation: Operation, case: Case, what: str) -> None:
    """Check that a command that failed has said what it could not write, as a mistake of a user."""
    assert outcome.code == 2, f"{what}: {outcome.code} {outcome.err}"
    assert "Traceback" not in outcome.err and "bug in descant" not in outcome.err, what
    assert "cannot be written" in outcome.err, f"{what}: {outcome.err}"
    file = Path(final(operation.file))
    names = [str(path) for path in (file, *file.parents) if str(path) != "."]
    assert any(name in outcome.err for name in names or [" cannot"]), f"{what}: {outcome.err}"
    if case.resumes and "set HF_HOME" not in outcome.err:
        assert KEPT in outcome.err, f"{what}: {outcome.err}"


def check_failing(one: Undisturbed, fault: Fault) -> None:
    operation = one.operations[fault.n]
    what = f"{fault.how} at {fault.n}, {operation.kind} {operation.file}"
    folder = one.folder(f"{fault.how}-{fault.n}")
    outcome = one.disturbed(folder, fault)
    if outcome.code == 0:  # it could do without
        left = contents(folder)
        assert {name: left.get(name) for name in one.left} == one.left, what
    else:
        check_words(outcome, operation, one.case, what)
    one.check_resumed(folder, what)


def check_killed(one: Undisturbed, numbers: Sequence[int]) -> None:
    for n in numbers:
        operation = one.operations[n]
        folder = one.root / "killed" / str(n) / "work"
        shutil.copytree(one.states[n], folder)
        one.check_resumed(folder, f"killed at {n}, {operation.kind} {operation.file}")


@pytest.mark.parametrize("name", CASES)
def test_a_disk_that_refuses(name: str, undisturbed) -> None:
    one = undisturbed(name)
    for n in sampled(one):
        check_failing(one, Fault(n, "fail"))


@EVERY
@pytest.mark.parametrize("name", cases())
def test_a_disk_that_refuses_anything(name: str, undisturbed) -> None:
    one = undisturbed(name)
    for n in sorted({*points(one.operations)} - {*sampled(one)}):
        check_failing(one, Fault(n, "fail"))


@pytest.mark.parametrize("name", CASES)
def test_a_disk_that_is_full(name: str, undisturbed) -> None:
    one = undisturbed(name)
    writes = [n for n, operation in enumerate(one.operations) if operation.kind == "write"]
    for n in sorted({writes[len(writes) * part // 3] for part in range(3)}):
        check_failing(one, Fault(n, "full"))


@pytest.mark.parametrize("name", CASES)
def test_a_disk_that_takes_half(name: str, undisturbed) -> None:
    """Each write is short: whoever writes goes on with the rest."""
    one = undisturbed(name)
    folder = one.folder("short")
    outcome = one.disturbed(folder, Fault(0, "short"))
    assert outcome.code == 0, outcome.err
    assert contents(folder) == one.left


@pytest.mark.parametrize("name", CASES)
def test_a_process_that_is_killed(name: str, undisturbed) -> None:
    """Its folder is as it was before the n-th operation; each such folder is tried once."""
    one = undisturbed(name)
    check_killed(one, sampled(one))


@EVERY
@pytest.mark.parametrize("name", cases())
def test_a_process_that_is_killed_anywhere(name: str, undisturbed) -> None:
    one = undisturbed(name)
    check_killed(one, sorted({*points(one.operations)} - {*sampled(one)}))


@pytest.mark.parametrize("name", CASES)
def test_a_process_that_is_killed_within_a_write(name: str, undisturbed) -> None:
    one = undisturbed(name)
    writes = [n for n, operation in enumerate(one.operations) if operation.size > 1]
    for n in sorted({writes[len(writes) * part // 2] for part in range(2)} | {writes[-1]}):
        folder = one.folder(f"torn-{n}")
        outcome = one.disturbed(folder, Fault(n, "torn"))
        assert outcome.code == -9, outcome.err
        one.check_resumed(folder, f"killed within {n}, a write of {one.operations[n].file}")


@pytest.mark.parametrize("arguments", [["explain", "base + arm_help"], ["doctor"]])
def test_what_is_said_to_write_nothing_writes_nothing(arguments: list[str], tmp_path: Path) -> None:
    def act() -> tuple[int, str, str]:
        done = command(*arguments, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    act()
    done = watched(act, Path("/"))
    assert done.code == 0, done.err
    assert {op.file for op in done.operations if not op.file.startswith(("dev/", "proc/"))} == set()


def test_every_command_has_a_case() -> None:
    """A new command that writes joins ``cases``; one that writes nothing says so."""
    registered = set(typer.main.get_command(app).commands)
    listed = {case.command for case in cases().values()}
    assert registered == listed | set(WRITES_NOTHING) and not listed & set(WRITES_NOTHING)
