"""Fronts and intervals, against plain counting."""

import itertools
import random

import numpy as np
import pytest
from sweeps import run_of

from descant.inputs.linear import Sum
from descant.inputs.runfile import RunFileError
from descant.results.front import front_of, hypervolume, pareto, preferences
from descant.scoring.intervals import difference, interval


def cloud(seed, count, size):
    """Points on a grid, so that some are equal and some agree in one objective."""
    draw = random.Random(seed)
    return {i: [draw.randint(0, 6) / 2 for _ in range(size)] for i in range(count)}


@pytest.mark.parametrize(("seed", "size"), [(s, n) for s in range(6) for n in (2, 3)])
def test_the_front_is_what_nothing_beats(seed, size):
    points = cloud(seed, 12, size)

    def beats(a, b):
        return all(x >= y for x, y in zip(a, b, strict=True)) and a != b

    expected = [i for i, p in points.items() if not any(beats(q, p) for q in points.values())]
    assert pareto(points) == expected


@pytest.mark.parametrize(("seed", "size"), [(s, n) for s in range(6) for n in (2, 3)])
def test_hypervolume_is_the_volume_counted_in_cells(seed, size):
    points = list(cloud(seed, 8, size).values())
    reference = [0.5] * size
    cells = itertools.product(np.arange(0.75, 3, 0.5), repeat=size)
    inside = sum(any(all(c < x for c, x in zip(cell, p, strict=True)) for p in points)
                 for cell in cells)  # fmt: skip
    assert hypervolume(points, reference) == pytest.approx(inside * 0.5**size)


def test_nothing_above_the_reference_is_no_volume():
    assert hypervolume([[1.0, 1.0]], [1.0, 0.0]) == 0.0


def test_a_front_of_two_formulas(tmp_path):
    run = run_of(
        tmp_path,
        formula=None,
        formulas={"arms": "base + (1-a)*arm_help + a*arm_harm", "base": "base"},
    )
    means = {"arms": {0: [4.0, 0.0], 1: [2.5, 2.5], 2: [0.0, 4.0]}, "base": {0: [1.0, 1.0]}}
    found = front_of(run, means, {"arms": (0, 1, 2), "base": (0, 0, 0)})
    assert found["objectives"] == ["help", "harm"]
    arms, base = found["formulas"]["arms"], found["formulas"]["base"]
    assert arms["front"] == [0, 1, 2] and base["front"] == [0]
    assert arms["reference"] == base["reference"] == [0.0, 0.0]
    assert (arms["hypervolume"], base["hypervolume"]) == (6.25, 1.0)
    assert arms["mean_inner_product"] == pytest.approx((4 + 2.5 + 4) / 3)
    assert base["mean_inner_product"] == pytest.approx(1.0)
    assert found["front"] == [["arms", 0], ["arms", 1], ["arms", 2]]


def test_an_objective_may_be_the_smaller_the_better(tmp_path):
    front = {"objectives": ["help", "-harm"], "reference": {"help": 0, "harm": 3}}
    run = run_of(tmp_path, front=front)
    found = front_of(run, {"formula": {0: [1.0, 1.0], 1: [2.0, 2.0], 2: [1.0, 2.0]}},
                     {"formula": (0, 1, 2)})["formulas"]["formula"]  # fmt: skip
    assert found["front"] == [0, 1] and found["hypervolume"] == 3.0
    assert found["reference"] == [0, 3] and found["mean_inner_product"] is None
    with pytest.raises(RunFileError, match="a number for each of help, harm"):
        bad = run.model_copy(update={"front": run.front.model_copy(update={"reference": {"x": 1}})})
        front_of(bad, {"formula": {0: [1.0, 1.0]}}, {"formula": (0,)})


def test_a_point_alone_has_no_volume_unless_the_reference_is_given(tmp_path):
    for front, volume in (({}, None), ({"reference": {"help": 0, "harm": 0}}, 2.0)):
        run = run_of(tmp_path, front={"objectives": ["help", "harm"], **front})
        found = front_of(run, {"formula": {0: [1.0, 2.0]}}, {"formula": (0,) * len(run.points)})
        assert found["formulas"]["formula"]["hypervolume"] == volume


def test_the_preferences_of_a_simplex_are_its_weights(tmp_path):
    run = run_of(
        tmp_path, formula="base + h*arm_help + s*arm_harm", params={"h": 1, "s": 0},
        sweep={"simplex": ["h", "s"], "step": 0.1}, front=None,
    )  # fmt: skip
    found = preferences(run)
    assert len(found) == 11 and found[0] == [1.0, 0.0] and found[3] == [0.7, 0.3]


@pytest.mark.parametrize(
    "text", ["help | top_k(3)", "max(help, harm)", "help + 1", 'help@"x"', "help*harm", "other"]
)
def test_a_preference_is_a_sum_and_nothing_else(text):
    with pytest.raises(ValueError):
        Sum(text, ["help", "harm"], [])


def test_an_interval_covers_the_mean_as_often_as_it_says():
    draw = np.random.default_rng(3)
    inside = 0
    for _ in range(200):
        values = {i: list(draw.normal(2.0, 1.0) + draw.normal(0, 0.3, 2)) for i in range(40)}
        found = interval(values)
        inside += found.low <= 2.0 <= found.high
    assert 0.90 <= inside / 200 <= 0.98


def test_samples_of_one_prompt_are_no_more_prompts():
    few = interval({i: [float(i)] for i in range(8)})
    many = interval({i: [float(i)] * 50 for i in range(8)})
    assert (few.low, few.high) == (many.low, many.high)


def test_a_paired_difference_is_narrower_than_its_sides():
    draw = np.random.default_rng(0)
    easy = {i: [float(v)] for i, v in enumerate(draw.normal(0, 5, 60))}
    better = {i: [v[0] + 0.5 + draw.normal(0, 0.1)] for i, v in easy.items()}
    found = difference(better, easy)
    assert 0.4 < found.low < 0.5 < found.high < 0.6
    assert interval(easy).high - interval(easy).low > 10 * (found.high - found.low)
