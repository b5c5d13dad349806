"""Effect sizes as a figure for a paper: a forest plot for each score, as PNG and as PDF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..extras import installed
from .figures import COLOURS, MARKERS, saved

ROWS = 40  # at most so many points of a score: the largest effects, where there are more
CAPTION = (
    "Differences of means over prompts from {against}, with paired 95 % bootstrap intervals. "
    "Filled: p below 0.05 by a sign-flip test, after Holm's procedure over all points."
)


def write_forest(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw ``effects.png`` and ``effects.pdf`` from the data of ``content_of``.

    There are no files where nothing is compared, or without matplotlib.
    """
    effects = data["effects"]
    if not effects["rows"] or not installed("matplotlib"):
        return []
    from matplotlib.figure import Figure

    most = max(min(ROWS, len(_rows(effects, score))) for score in effects["scores"])
    size = 2.9 * len(effects["scores"]) + 1.2, 0.24 * most + 1.1
    with saved(folder, "effects") as (files, save):
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(effects["scores"]), squeeze=False)[0]
        for axes, score in zip(panels, effects["scores"], strict=True):
            _panel(axes, data, score)
        first, *others = panels
        for axes in others:
            if _labels(axes) == _labels(first):  # once is enough
                axes.set_yticklabels([])
        save(figure)
    return files


def point_label(data: Mapping[str, Any], point: Mapping[str, Any]) -> str:
    """A point by its formula, where there are several, and its values."""
    values = ", ".join(f"{name} = {value:g}" for name, value in point["params"].items())
    name = data["formulas"][point["f"]]["name"] if len(data["formulas"]) > 1 else ""
    return " ".join(part for part in (name, values) if part) or str(point["point"])


def _labels(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def _rows(effects: Mapping[str, Any], score: str) -> list[dict[str, Any]]:
    rows = [row for row in effects["rows"] if row["score"] == score]
    if len(rows) <= ROWS:
        return rows
    largest = sorted(rows, key=lambda row: -abs(row["difference"]))[:ROWS]
    return [row for row in rows if row in largest]


def _panel(axes: Any, data: Mapping[str, Any], score: str) -> None:
    rows = _rows(data["effects"], score)
    points = [data["points"][row["at"]] for row in rows]
    axes.axvline(0, color="0.4", linewidth=0.8)
    for height, (row, point) in enumerate(zip(rows, points, strict=True)):
        colour, marker = COLOURS[point["f"] % 6], MARKERS[point["f"] % 6]
        axes.plot([row["difference_low"], row["difference_high"]], [height, height],
                  color=colour, linewidth=1)  # fmt: skip
        axes.plot(row["difference"], height, marker=marker, markersize=4.5, color=colour,
                  markerfacecolor=colour if row["p_holm"] < 0.05 else "white")  # fmt: skip
    axes.set_yticks(range(len(rows)), [point_label(data, point) for point in points])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"{score}, difference")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
