"""Scores over parameters: what the figure's panels and lines are, against the points themselves."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import product

import pytest

from descant.report import over_parameters
from descant.report.over_parameters import why_no_figure, write_over_parameters


def data_of(params: dict[str, list[float]], formulas: int = 1, scored: bool = True):
    points = [
        {"f": f, "params": dict(zip(params, values, strict=True)),
         "scores": {"help": [sum(values) + f, sum(values) + f - 0.5, sum(values) + f + 0.25]}}
        for f in range(formulas) for values in product(*params.values())
    ]  # fmt: skip
    scores = [{"name": "help", "label": "help", "asked": scored}]
    named = [{"name": f"formula {f}"} for f in range(formulas)]
    return {"points": points, "params": [*params], "scores": scores, "formulas": named}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure of some data."""
    pytest.importorskip("matplotlib")

    def draw(data):
        figures = []

        @contextmanager
        def kept(folder, name):
            assert (folder, name) == (tmp_path, "scores")
            yield [folder / "scores.png"], figures.append

        monkeypatch.setattr(over_parameters, "saved", kept)
        assert write_over_parameters(data, tmp_path) == [tmp_path / "scores.png"]
        return figures[0]

    return draw


def test_one_score_over_one_parameter_with_intervals(drawn) -> None:
    [axes] = drawn(data_of({"a": [0.5, 0, 1]})).axes
    [line] = axes.lines
    assert line.get_xydata().tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    [band] = axes.collections
    corners = {tuple(each) for each in band.get_paths()[0].vertices.tolist()}
    assert {(0, -0.5), (0.5, 0), (1, 0.5), (0, 0.25), (0.5, 0.75), (1, 1.25)} == corners
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("a", "help")


def test_three_parameters_are_small_multiples(drawn) -> None:
    figure = drawn(data_of({"b": [0, 1], "a": [0, 1, 2], "c": [5, 7]}))
    assert [axes.get_title() for axes in figure.axes] == ["c = 5", "c = 7"]
    for axes, c in zip(figure.axes, (5, 7), strict=True):
        assert axes.get_xlabel() == "a"
        for line, b in zip(axes.lines, (0, 1), strict=True):
            assert line.get_label() == f"b = {b}"
            assert line.get_xydata().tolist() == [[a, a + b + c] for a in (0, 1, 2)]


def test_several_formulas_are_lines_and_many_panels_are_said(drawn) -> None:
    figure = drawn(data_of({"a": [0, 1, 2] * 4, "b": [0, 1]}, formulas=2))
    assert [axes.get_title() for axes in figure.axes] == ["b = 0", "b = 1"]
    assert [line.get_label() for line in figure.axes[0].lines] == ["formula 0", "formula 1"]
    many = drawn(data_of({"a": [*range(12)], "b": [*range(11)]}, formulas=2))
    assert len(many.axes) == 8 and many.axes[-1].get_title() == "b = 7 (8 of 11 panels)"


def test_where_nothing_is_drawn_there_is_a_reason(monkeypatch) -> None:
    assert why_no_figure(data_of({"a": [0, 1]}, scored=False)).startswith("no score is declared")
    assert why_no_figure(data_of({"a": [1]})).startswith("no parameter has two values")
    monkeypatch.setattr(over_parameters, "installed", lambda package: False)
    assert "descant[report]" in why_no_figure(data_of({"a": [0, 1]}))
