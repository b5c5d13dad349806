"""The benchmark of searches counts what it says it does."""

from __future__ import annotations

from bench.particles import SEARCHES, measured


def test_forwards_and_rows_are_counted() -> None:
    found = measured([*SEARCHES], rows=4, new=20, runs=1)
    assert found["best_of"]["lanes"]["base"] == {"forwards": 20, "rows": 1 + 19 * 4}
    dropped = found["best_of, half kept each 16 tokens"]["lanes"]["base"]
    assert dropped == {"forwards": 20, "rows": 1 + 15 * 4 + 4 * 2}
    assert found["particles"]["lanes"]["base"] == found["best_of"]["lanes"]["base"]
    assert found["best_of"]["over_best_of"] == 1
    assert all(len(each["seconds"]) == 1 for each in found.values())
