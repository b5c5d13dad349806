"""Scores over the swept parameters as a figure for a paper, with intervals, as PNG and as PDF.

Across is the parameter with the most values. Lines are formulas; of one formula, the values of a
second parameter. What is left parts the figure into panels, side by side: small multiples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..extras import installed
from .figures import COLOURS, MARKERS, saved

PANELS = 8  # side by side at most
Point = Mapping[str, Any]


def write_over_parameters(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw ``scores.png`` and ``scores.pdf`` from the data of ``content_of``.

    There are no files where ``why_no_figure`` says why.
    """
    if why_no_figure(data):
        return []
    from matplotlib.figure import Figure

    scores, (across, apart, panels) = _shown(data), _parted(data)
    size = 3.1 * len(panels) + 1.1, 2.3 * len(scores) + 0.7
    with saved(folder, "scores") as (files, save):
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(
            len(scores), len(panels), squeeze=False, sharex=True, sharey="row"
        )  # fmt: skip
        for axes_of_row, score in zip(grid, scores, strict=True):
            axes_of_row[0].set_ylabel(score["label"])
            for axes, (_, points) in zip(axes_of_row, panels, strict=True):
                _panel(axes, points, score["name"], across, apart, data)
        for axes, (title, _) in zip(grid[0], panels, strict=True):
            axes.set_title(title, fontsize=9)
        for axes in grid[-1]:
            axes.set_xlabel(across)
        lines, labels = grid[0][0].get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(lines, labels, loc="outside upper left", ncols=min(len(labels), 6))
        save(figure)
    return files


def why_no_figure(data: Mapping[str, Any]) -> str:
    """Why scores are not drawn over parameters; empty where they are."""
    if not _shown(data):
        return "no score is declared: write score: in the run file"
    if not any(len(values) > 1 for values in _values(data).values()):
        return "no parameter has two values: write sweep: in the run file"
    return "" if installed("matplotlib") else "pictures need matplotlib, of descant[report]"


def _shown(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The scores that are asked for and have values."""
    known = {name for point in data["points"] for name in point["scores"]}
    return [score for score in data["scores"] if score["asked"] and score["name"] in known]


def _values(data: Mapping[str, Any]) -> dict[str, list[float]]:
    """Per parameter its values, sorted."""
    values: dict[str, set[float]] = {name: set() for name in data["params"]}
    for point in data["points"]:
        for name, value in point["params"].items():
            values[name].add(value)
    return {name: sorted(each) for name, each in values.items()}


def _parted(data: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, list[Point]]]]:
    """What is across, what lines are apart by (a parameter or nothing), and titled panels."""
    swept = [name for name, values in _values(data).items() if len(values) > 1]
    across = max(swept, key=lambda name: len(_values(data)[name]))
    others = [name for name in swept if name != across]
    apart = others.pop(0) if others and len(data["formulas"]) == 1 else ""
    panels: dict[tuple[float | None, ...], list[Point]] = {}
    for point in data["points"]:
        if across in point["params"]:
            key = tuple(point["params"].get(name) for name in others)
            panels.setdefault(key, []).append(point)
    keys = sorted(panels, key=lambda key: [(value is not None, value or 0.0) for value in key])
    titled = []
    for key in keys[:PANELS]:
        pairs = zip(others, key, strict=True)
        title = ", ".join(f"{name} = {value:g}" for name, value in pairs if value is not None)
        titled.append((title, panels[key]))
    if len(keys) > PANELS:
        last, points = titled[-1]
        titled[-1] = f"{last} ({PANELS} of {len(keys)} panels)", points
    return across, apart, titled


def _panel(
    axes: Any, points: Sequence[Point], score: str, across: str, apart: str, data: Mapping[str, Any]
) -> None:
    """One score of one panel: its means, and their intervals as bands."""
    lines: dict[tuple[int, float | None], list[tuple[float, list[float]]]] = {}
    for point in points:
        mean, low, high = point["scores"].get(score, (None, None, None))
        if mean is not None:
            ends = [mean if low is None else low, mean if high is None else high]
            key = point["f"], point["params"].get(apart)
            lines.setdefault(key, []).append((point["params"][across], [mean, *ends]))
    for formula, value in sorted(lines, key=lambda line: (line[0], line[1] or 0.0)):
        known = sorted(lines[formula, value])
        number, label = formula, data["formulas"][formula]["name"]
        if value is not None:
            number, label = _values(data)[apart].index(value), f"{apart} = {value:g}"
        colour, marker = COLOURS[number % 6], MARKERS[number % 6]
        x, (y, low, high) = [at for at, _ in known], zip(*(each for _, each in known), strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1, label=label)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
