"""The ``Fit`` of a search: what was found, in the words of all objectives."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...runtime.fit.result import Fit
from .outcome import Outcome
from .space import Space
from .tables import as_dict, rows_of


def fit_of(outcome: Outcome, run_file: dict[str, Any], space: Space) -> Fit:
    """A search as a ``Fit``; held-out prompts are measured at the start and at the values found."""
    names = [name.removeprefix("-") for name in outcome.objectives]
    on_bounds = [
        axis.name for axis in space.axes if outcome.params[axis.name] in (axis.low, axis.high)
    ]
    held_out: dict[str, Any] = {}
    if outcome.held_out:
        at = ([0] if outcome.started else []) + [outcome.best]
        for i, name in enumerate(names):
            held_out[name] = [outcome.held_out[number][i].mean for number in at]
    return Fit(
        params=outcome.params,
        stderr={name.removeprefix("-"): value for name, value in outcome.stderr.items()},
        covariance=np.empty((0, 0)),
        loglikelihood=float("nan"),
        table=rows_of(outcome),
        run_file=run_file,
        objective="reward",
        texts=len(outcome.trials[outcome.best].measured),
        start=outcome.trials[0].params if outcome.started else {},
        at_bounds=tuple(on_bounds),
        trace=[
            {"params": trial.params, "best": value}
            for trial, value in zip(outcome.trials, outcome.convergence, strict=True)
        ],
        holdout=held_out,
        notes=tuple(f"{name} hits its bound, {outcome.params[name]:g}" for name in on_bounds),
        search=as_dict(outcome),
    )
