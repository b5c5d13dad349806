"""A whole search: trials, held-out prompts, a grid of the same cost; the outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from ...inputs.grid import Point
from ...inputs.sections import FORMULA, GRID, HELD_OUT
from ...runtime.fit.objectives import held_out as held_out_of
from ...runtime.progress import progress_bar
from .options import Options
from .outcome import Outcome, outcome_of
from .study import Search
from .trials import Ids, Log, Measured, Trial, run_trials


class MeasureNamed(Protocol):
    """What measures points under a name, each completion once."""

    def __call__(self, name: str, points: Mapping[int, Point], ids: Ids) -> Mapping[int, Measured]:
        """Per point and prompt, the means of the objectives over samples."""


def searched(
    search: Search,
    options: Options,
    objectives: Sequence[str],
    reference: Mapping[str, float] | None,
    ids: Sequence[Any],
    measure: MeasureNamed,
    log: Log,
    progress: bool | None = None,
) -> Outcome:
    """Search, then measure what the options ask for besides.

    Args:
        search: from ``options.search``.
        objectives: the names of what is measured, with a minus where less is better.
        reference: of hypervolume, by names without minus.
        ids: of all prompts.
        progress: whether a bar is shown; left out, on a terminal.
    """
    sides = held_out_of(len(ids), options.holdout, options.seed, "prompts")
    ids, held = ([ids[i] for i in side] for side in sides)
    bar = progress_bar(search.trials, "trial", "fit", progress)
    shown: list[Trial] = []

    def show(finished: Sequence[Trial]) -> None:
        shown.extend(finished)
        bar.update(len(finished))
        if complete := [trial.mean(0) for trial in shown if not trial.pruned]:
            best = search.signs[0] * max(search.signs[0] * mean for mean in complete)
            bar.set_postfix_str(f"{objectives[0].removeprefix('-')} {best:.4g}", refresh=False)

    with bar:
        trials = run_trials(search, ids, partial(measure, FORMULA), log, show)
    started = search.space.proposal(search.start) is not None
    finish = partial(
        outcome_of, objectives, trials, weights=options.weights, reference=reference,
        started=started,
    )  # fmt: skip
    found = finish()
    held_out: dict[int, Measured] = {}
    if held:
        numbers = dict.fromkeys([0] * started + [*found.front])
        held_out = dict(measure(HELD_OUT, {n: trials[n].params for n in numbers}, held))
    grid: list[tuple[Point, Measured]] = []
    if options.grid:
        cost = sum(len(t.measured) for t in {t.point: t for t in trials}.values())
        points = dict(enumerate(search.space.grid(max(1, cost // len(ids)))))
        measured = measure(GRID, points, ids)
        grid = [(points[number], measured[number]) for number in points]
    return finish(held_out=held_out, grid=grid) if held_out or grid else found
