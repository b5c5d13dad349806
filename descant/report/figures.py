"""The front as a figure for a paper: a panel for each pair of objectives, as PNG and as PDF."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..disk import written
from ..extras import installed

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#4b4b9f")
MARKERS = ("o", "s", "D", "^", "v", "P")
LABELLED = 40  # at most so many points get their parameters as labels


def write_figures(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw ``front.png`` and ``front.pdf`` from the data of ``content_of``.

    There are no files where there are no two objectives, or no matplotlib.
    """
    pairs = list(combinations(data["objectives"], 2))
    if not pairs or not data["points"] or not installed("matplotlib"):
        return []
    from matplotlib.figure import Figure

    with saved(folder, "front") as (files, save):
        figure = Figure(figsize=(4.2 * len(pairs) + 0.3, 3.5), layout="constrained")
        panels = figure.subplots(1, len(pairs), squeeze=False)[0]
        for axes, (x, y) in zip(panels, pairs, strict=True):
            _panel(axes, data, x, y)
        if len(data["formulas"]) > 1:
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 4),
                          handletextpad=0.2, columnspacing=1.4)  # fmt: skip
        save(figure)
    return files


@contextmanager
def saved(folder: Path, name: str) -> Iterator[tuple[list[Path], Callable[[Any], None]]]:
    """The settings of a figure of ours; gives its files, and a function that writes it as each."""
    from matplotlib import rc_context

    files = [folder / f"{name}.png", folder / f"{name}.pdf"]

    def save(figure: Any) -> None:
        with written(files[0]) as partial:
            figure.savefig(partial, dpi=200, metadata={"Software": None})
        with written(files[1]) as partial:
            figure.savefig(partial, metadata={"CreationDate": None})

    settings = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
        "pdf.fonttype": 42, "legend.frameon": False,
    }  # fmt: skip
    with rc_context(settings):
        yield files, save


def _panel(axes: Any, data: Mapping[str, Any], x: str, y: str) -> None:
    label = {score["name"]: score["label"] for score in data["scores"]}
    named: list[tuple[float, float, str]] = []
    for number, formula in enumerate(data["formulas"]):
        points = [
            point for point in data["points"]
            if point["f"] == number and x in point["scores"] and y in point["scores"]
        ]  # fmt: skip
        colour, marker = COLOURS[number % 6], MARKERS[number % 6]
        for point in points:
            across, up = point["scores"][x], point["scores"][y]
            axes.errorbar(
                across[0], up[0], xerr=_margins(across), yerr=_margins(up), fmt="none",
                ecolor=colour, elinewidth=0.7, alpha=0.55, zorder=1,
            )  # fmt: skip
        rest = [(point["scores"][x][0], point["scores"][y][0], point) for point in points]
        front = [entry for entry in sorted(rest, key=itemgetter(0, 1)) if entry[2]["front"]]
        if len(data["objectives"]) == 2:
            axes.plot(*_columns(front), color=colour, linewidth=1, alpha=0.7, zorder=2)
        axes.scatter(*_columns(rest), marker=marker, s=22, zorder=3, linewidths=1,
                     facecolors="white", edgecolors=colour)  # fmt: skip
        axes.scatter(*_columns(front), marker=marker, s=22, zorder=4, linewidths=1, color=colour,
                     label=formula["name"])  # fmt: skip
        for px, py, point in front:
            values = [f"{value:g}" for value in point["params"].values()]
            named.append((px, py, values[0] if values else formula["name"]))
    axes.set(xlabel=label.get(x, x), ylabel=label.get(y, y))
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(0.08)
    if len(data["params"]) == 1 and len(data["objectives"]) == 2 and len(named) <= LABELLED:
        _name(axes, named)


def _name(axes: Any, points: list[tuple[float, float, str]]) -> None:
    """Label points, but for those whose label would hide another's."""
    axes.figure.canvas.draw()
    taken: list[tuple[float, float]] = []
    pixels = axes.figure.dpi / 72  # of a typographic point
    for x, y, text in points:
        px, py = axes.transData.transform((x, y))
        if any(abs(px - a) < 15 * pixels and abs(py - b) < 8 * pixels for a, b in taken):
            continue
        taken.append((px, py))
        axes.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)


def _margins(value: list[float | None]) -> list[list[float]] | None:
    """The margins of an interval, as matplotlib takes them."""
    mean, low, high = value
    if mean is None or low is None or high is None:
        return None
    return [[max(0.0, mean - low)], [max(0.0, high - mean)]]


def _columns(points: list[tuple[float, float, Any]]) -> tuple[list[float], list[float]]:
    return [x for x, _, _ in points], [y for _, y, _ in points]
