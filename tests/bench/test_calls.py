"""Python calls per token stay few: what the host does in a step is counted, not timed."""

from __future__ import annotations

import json
from pathlib import Path

import descant
from bench.calls import TARGETS, counted, measured

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "calls.json"
SLACK = 1.1  # over what was measured and kept


def test_a_step_makes_few_python_calls() -> None:
    numbers, kept = measured(), json.loads(RESULTS.read_text(encoding="utf-8"))
    for name, target in TARGETS.items():
        assert kept[name] <= target
        assert numbers[name] <= SLACK * kept[name], f"{name}: python -m bench.calls --list"


def test_calls_of_ours_are_counted_and_no_others() -> None:
    assert counted(lambda: descant.parse("base + arm"))["parse.py:parse"] == 1
    assert counted(lambda: json.dumps({"a": [1, 2]})).total() == 0
