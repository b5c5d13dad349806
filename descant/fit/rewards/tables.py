"""An outcome as rows, as JSON and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ...inputs.grid import Point
from ...scoring.intervals import Mean
from .outcome import Outcome


def rows_of(outcome: Outcome) -> list[dict[str, Any]]:
    """A row per trial: its values, its means with intervals, and what has become of it."""
    rows = []
    for trial in outcome.trials:
        row: dict[str, Any] = {"trial": trial.number, **trial.params}
        for name, mean in zip(outcome.objectives, outcome.means(trial.number), strict=True):
            plain = name.removeprefix("-")
            row |= {plain: mean.mean, f"{plain}_low": mean.low, f"{plain}_high": mean.high}
        row |= {"prompts": len(trial.measured), "pruned": trial.pruned}
        row |= {"front": trial.number in outcome.front, "best": trial.number == outcome.best}
        rows.append(row)
    return rows


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """The content of ``fit.json``: what is found, and what it is compared with."""
    names = [name.removeprefix("-") for name in outcome.objectives]

    def named(means: tuple[Mean, ...]) -> dict[str, Any]:
        return {name: asdict(mean) for name, mean in zip(names, means, strict=True)}

    grid = outcome.grid
    return {
        "schema": 1,
        "objectives": [*outcome.objectives],
        "params": outcome.params,
        "best": outcome.best,
        "scores": named(outcome.means(outcome.best)),
        "stderr": outcome.stderr,
        "front": [
            {"trial": n, "params": outcome.trials[n].params, "scores": named(outcome.means(n))}
            for n in outcome.front
        ],
        "reference": [*outcome.reference],
        "hypervolume": outcome.hypervolume and asdict(outcome.hypervolume),
        "convergence": [value if value == value else None for value in outcome.convergence],
        "held_out": {str(n): named(means) for n, means in outcome.held_out.items()},
        "grid": grid
        and {
            "points": len(grid.points),
            "params": grid.points[grid.best],
            "scores": named(grid.means),
            "front": [grid.points[i] for i in grid.front],
            "hypervolume": grid.hypervolume and asdict(grid.hypervolume),
            "gain": asdict(grid.gain),
        },
        "trials": rows_of(outcome),
    }


def lines_of(outcome: Outcome) -> Iterator[str]:
    """What is found, in a few lines."""
    names = [name.removeprefix("-") for name in outcome.objectives]

    def scored(means: tuple[Mean, ...]) -> str:
        return ", ".join(f"{name} {mean}" for name, mean in zip(names, means, strict=True))

    pruned = sum(trial.pruned for trial in outcome.trials)
    stopped = f", {pruned} of them stopped early" if pruned else ""
    chosen = outcome.trials[outcome.best]
    yield (
        f"{len(outcome.trials)} trials{stopped}; the best is trial {chosen.number}: "
        f"{_valued(chosen.params)}"
    )
    yield f"  {scored(outcome.means(chosen.number))}"
    for number, means in outcome.held_out.items():
        if number == outcome.best or (number == 0 and outcome.started):
            which = "the best" if number == outcome.best else "the start"
            yield f"  {which} on held-out prompts: {scored(means)}"
    if outcome.hypervolume is not None:
        count = len(outcome.front)
        yield f"a front of {count} points, hypervolume {outcome.hypervolume}"
    if outcome.grid is not None:
        grid = outcome.grid
        what = "hypervolume" if grid.hypervolume is not None else names[0]
        yield (
            f"a grid of {len(grid.points)} points, which cost as much: "
            f"{_valued(grid.points[grid.best])}, {scored(grid.means)}"
        )
        yield f"  the search is better by {grid.gain} in {what}"


def _valued(params: Mapping[str, float] | Point) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in params.items())
