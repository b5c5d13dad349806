"""Hostile constraints end in a message or in a matcher, in little time and memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_constraints import COMPILED, REFUSED

from descant.runtime.constraints.limits import MEMORY, SECONDS, ConstraintError
from descant.runtime.constraints.spec import Constraint, constraint_of
from descant.serve.frontend import constraint_checks
from descant.serve.frontend.check_queue import WALL, Checks
from descant.serve.frontend.constraint_checks import ConstraintChecks
from descant.serve.protocol.errors import ApiError

pytest.importorskip("llguidance")
GOOD = Constraint("regex", "a+")


@pytest.fixture(scope="module")
def checks() -> Iterator[ConstraintChecks]:
    processes = Checks()
    made = ConstraintChecks(processes)
    asyncio.run(made.check(GOOD))  # the process is ready
    yield made
    processes.stop()


def resident(checks: ConstraintChecks) -> int:
    """Bytes in memory of the process that tries."""
    pages = Path(f"/proc/{checks._checks.long.process.pid}/statm").read_text().split()[1]
    return 4096 * int(pages)


async def tried(checks: ConstraintChecks, form) -> float:
    """Try one; the seconds that it took."""
    start = time.perf_counter()
    constraint = constraint_of(form)
    assert constraint is not None
    await checks.check(constraint)
    return time.perf_counter() - start


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_constraint_is_refused_soon(checks, name) -> None:
    start = time.perf_counter()
    with pytest.raises(ConstraintError) as refused:
        asyncio.run(tried(checks, REFUSED[name]))
    # A machine that is busy gives the process less than its time; another is started for the next.
    assert time.perf_counter() - start < WALL * SECONDS + 3
    assert len(str(refused.value)) < 400 and "\n" not in str(refused.value)
    asyncio.run(checks.check(Constraint("regex", f"well {name}")))


@pytest.mark.parametrize("name", COMPILED)
def test_one_that_compiles_takes_little(checks, name) -> None:
    before = resident(checks)
    assert asyncio.run(tried(checks, COMPILED[name])) < 2 * SECONDS
    assert resident(checks) - before < MEMORY / 8


def test_a_process_that_dies_or_hangs_refuses_one_constraint(checks, monkeypatch) -> None:
    """Past the limits of its size, a chain of rules ends the process: the next one is tried."""
    chain = Constraint("grammar", "\n".join(f"r{i}: r{i + 1}" for i in range(9)))
    queue = checks._checks.long
    process = queue.process
    monkeypatch.setattr(queue._connection, "poll", lambda seconds: process.kill() or False)
    with pytest.raises(ConstraintError, match="takes too long, or too much memory"):
        asyncio.run(checks.check(chain))
    assert process.exitcode is not None
    asyncio.run(checks.check(Constraint("regex", "alive")))
    assert queue.process is not process


def test_many_at_once_wait_and_more_are_turned_away(checks, monkeypatch) -> None:
    monkeypatch.setattr(constraint_checks, "WAITING", 3)

    async def four() -> list[object]:
        some = [checks.check(Constraint("regex", f"b{i}")) for i in range(4)]
        same = checks.check(Constraint("regex", "b0"))  # waits for the first
        return await asyncio.gather(*some, same, return_exceptions=True)

    *passed, refused, same = asyncio.run(four())
    assert passed == [None] * 3 and same is None
    assert isinstance(refused, ApiError) and refused.status == 429
