"""Grids: every spelling, and what is said of those that mean nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descant.inputs.grid import GridError, points_of, simplex_of


def rows(sweep, *names):
    return [tuple(point[name] for name in names) for point in points_of(sweep)]


def test_a_tenth_is_a_tenth():
    assert rows({"a": {"from": 0, "to": 1, "step": 0.1}}, "a") == [(i / 10,) for i in range(11)]
    assert rows({"a": {"from": 0, "to": 0.95, "step": 0.3}}, "a") == [
        (0.0,),
        (0.3,),
        (0.6,),
        (0.9,),
    ]
    assert rows({"a": {"from": 1, "to": 100, "count": 3, "log": True}}, "a") == [
        (1.0,), (10.0,), (100.0,),
    ]  # fmt: skip


def test_eleven_vectors():
    found = rows({"simplex": ["help", "harm"], "step": 0.1}, "help", "harm")
    assert found == [(round(1 - i / 10, 1), i / 10) for i in range(11)]


@given(st.integers(2, 4), st.integers(1, 8))
def test_a_simplex_is_all_of_it(names, parts):
    over = [f"w{i}" for i in range(names)]
    found = rows({"simplex": over, "step": f"1/{parts}"}, *over)
    assert len(found) == len(set(found)) == math.comb(parts + names - 1, names - 1)
    assert all(sum(row) == pytest.approx(1) and min(row) >= 0 for row in found)


def test_products_unions_and_points():
    both = points_of({"simplex": ["w", "v"], "step": 1, "k": [5, 10]})
    assert both == [{"w": w, "v": 1 - w, "k": k} for w in (1.0, 0.0) for k in (5.0, 10.0)]
    listed = points_of([{"a": 0, "b": 1}, {"a": 1, "b": 0}, {"a": [0, 1], "b": 1}])
    assert listed == [{"a": 0, "b": 1}, {"a": 1, "b": 0}, {"a": 1, "b": 1}]


def test_random_points_are_seeded_and_within():
    said = {
        "random": 50, "a": {"from": -1, "to": 1}, "k": [5, 10], "simplex": ["w", "v", "u"],
        "n": {"from": 1, "to": 4, "step": 1}, "b": {"from": 0.01, "to": 100, "log": True},
    }  # fmt: skip
    found = points_of(said)
    assert found == points_of({**said, "seed": 0}) != points_of({**said, "seed": 1})
    assert len(found) == 50 and {p["k"] for p in found} == {5, 10}
    assert all(-1 <= p["a"] <= 1 and p["n"] in (1, 2, 3, 4) for p in found)
    assert all(abs(p["w"] + p["v"] + p["u"] - 1) < 1e-9 for p in found)
    assert 15 < sum(p["b"] < 1 for p in found) < 35
    assert simplex_of(said) == ("w", "v", "u")


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ({"a": []}, "sweep.a: an empty list leaves no points"),
        ({"a": ["x"]}, "sweep.a: 'x' is not a number"),
        ({"a": [True]}, "sweep.a: True is not a number"),
        ({"a": {"from": 0, "to": 1}}, "a range has a step or a count"),
        ({"a": {"from": 1, "to": 0, "step": 0.1}}, "from 1 down to 0"),
        ({"a": {"from": 0, "to": 1, "step": 0}}, "it must be above 0"),
        ({"a": {"from": 0, "to": 1, "stepp": 1}}, "there is no option stepp"),
        ({"a": {"to": 1, "step": 1}}, "a range has from and to"),
        ({"a": {"from": 0, "to": 1, "log": True, "count": 3}}, "begins above 0"),
        ({"a": {"from": 0, "to": 1, "step": 1e-9}}, "1000000001 points"),
        ({"simplex": ["a"], "step": 0.1}, "name two or more"),
        ({"simplex": ["a", "b"], "step": 0.3}, "1 must be a multiple of it"),
        ({"simplex": ["a", "b"]}, "a simplex has a step"),
        ({"simplex": ["a", "b"], "step": 0.5, "a": [1]}, "a is on the simplex and also an axis"),
        ({"a": [1], "seed": 1}, "a grid that is not random has no seed"),
        ({"a": [1], "step": 1}, "only a simplex has it"),
        ({"random": 0, "a": [1]}, "a whole number from 1"),
        ([{"a": 1}, {"b": 1}], "every grid names the same parameters"),
        ({}, "a grid is names and their values"),
    ],
)
def test_what_means_nothing_is_said(sweep, says):
    with pytest.raises(GridError) as caught:
        points_of(sweep)
    assert says in str(caught.value)
