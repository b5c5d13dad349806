"""The benchmark of sweeps: its clocks add up, and the parts of a real sweep are found."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.sweep import PROMPTS, VECTORS, Parts, written

ROOT = Path(__file__).parents[2]


def test_a_part_inside_another_counts_as_itself_alone() -> None:
    parts = Parts()

    def items():
        for i in range(3):
            time.sleep(0.02)
            yield i

    holder = SimpleNamespace(nap=lambda: time.sleep(0.05), items=items)
    parts.function(holder, "nap", "naps")
    parts.generator(holder, "items", "steps")
    start = time.perf_counter()
    with parts.part("beside"):
        assert [holder.nap() or i for i in holder.items()] == [0, 1, 2]
        time.sleep(0.03)
    whole = time.perf_counter() - start
    walls = {name: times["wall"] for name, times in parts.times.items()}
    assert sum(walls.values()) == pytest.approx(whole, abs=0.01)
    assert walls["naps"] >= 0.15 and walls["steps"] >= 0.06 and walls["beside"] >= 0.03
    assert walls["steps"] < whole - walls["naps"], "what others do with an item is theirs"


def test_the_parts_of_a_sweep(tmp_path) -> None:
    file, parts = written("tiny", tmp_path, new=3), tmp_path / "parts.json"
    command = [sys.executable, "-m", "bench.sweep", "--inside", str(file), str(parts)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    times = json.loads(parts.read_text())
    assert set(times) == {"beside", "weights", "steps", "scoring", "report"}
    assert all(one["wall"] > 0 for one in times.values())
    lines = (tmp_path / "inside" / "completions.jsonl").read_text().splitlines()
    assert len(lines) == VECTORS * PROMPTS
    assert {len(json.loads(line)["token_ids"]) for line in lines} == {3}
