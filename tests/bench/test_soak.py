"""The soak: a short one passes, and whatever grows or differs makes it fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
from bench import memory, soak

ROOT = Path(__file__).parents[2]


def observed(server: list[float], files: list[int] | None = None) -> soak.Observed:
    flat = [(float(i), 100) for i in range(len(server))]
    return soak.Observed(
        equal=5, server=[*enumerate(server)], ours=flat,
        files=[*enumerate(files)] if files else flat,
    )  # fmt: skip


def test_what_is_flat_is_right() -> None:
    assert not soak.verdict(observed([50, 90, 99, 100, 101, 100, 100, 102, 101]))


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (observed([100, 110, 120, 130, 140, 150, 160, 170, 180]), "the server's memory has grown"),
        (observed([1] * 9, [30, 30, 30, 30, 30, 40, 60, 60, 60]), "open files has grown"),
        (soak.Observed(equal=1, wrong=["an answer"]), "an answer"),
        (soak.Observed(), "no answer came"),
    ],
)
def test_what_is_not_is_said(seen, says) -> None:
    assert any(says in problem for problem in soak.verdict(seen))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_a_short_one() -> None:
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.15", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert " answers equal" in done.stdout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_the_measure_of_memory_sees_what_is_held_and_what_is_not() -> None:
    before = memory.allocated()
    held = bytearray(30_000_000)
    assert memory.allocated() - before > 29_000_000
    assert memory.resident() > 29_000_000
    del held
    assert memory.allocated() - before < 5_000_000
    start = memory.Memory(0, 0.0, resident=100, allocated=40)
    assert memory.Memory(1, 0.0, resident=130, allocated=50, caches=20).ratio(start) == 1
    assert memory.Memory(1, 0.0, resident=200, allocated=40).ratio(start) == 2
