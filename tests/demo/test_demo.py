"""The demonstration: the rewards move the right way, and it leaves a table and a picture."""

import csv
import io
from itertools import pairwise

import pytest
from rich.console import Console

from descant.demo import tour


@pytest.mark.slow
def test_the_tour(tmp_path):
    pytest.importorskip("matplotlib")
    out = io.StringIO()
    points = tour.tour(Console(file=out, width=120), tmp_path, prompts=16, tokens=48)
    assert [point.a for point in points] == [i / 8 for i in range(9)]
    assert falls([point.reward_help for point in points])
    assert falls([-point.reward_harm for point in points])
    rows = list(csv.DictReader((tmp_path / "front.csv").open()))
    assert len(rows) == 9
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    for part in ("base + 0.5*arm_help", "per token", "mean help reward", "front.png"):
        assert part in out.getvalue()


def falls(values: list[float]) -> bool:
    """Monotone up to noise: far from end to end, and no step back of a quarter of that."""
    span = values[0] - values[-1]
    steps_back = [later - earlier for earlier, later in pairwise(values)]
    return span > 2 and max(steps_back) < span / 4


def test_falls_can_fail():
    assert falls([5.0, 4.0, 4.1, 2.0])
    assert not falls([5.0, 2.0, 4.5, 2.0])
    assert not falls([2.0, 3.0, 4.0])
