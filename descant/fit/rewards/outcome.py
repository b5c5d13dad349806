"""What a search has found: the best trial or the front, with bootstrap intervals over prompts.

Hypervolume and dominance are ``descant.results.front``'s. An interval resamples the prompts of all
points together, and finds the front anew in every resample, from the same reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...inputs.grid import Point
from ...results.front import hypervolume, pareto
from ...scoring.intervals import LEVEL, SEED, Mean, interval
from .trials import Measured, Trial, rounded

RESAMPLES = 1000  # of the prompts, for hypervolumes and differences


@dataclass(frozen=True)
class Outcome:
    """The result of a search.

    Attributes:
        objectives: the scores' names, with a minus where less is better.
        trials: all, in order.
        best: the number of the trial that is chosen: with one objective the best mean; of a front
            the one with the most weighted sum, or where there are no weights with the largest box
            between it and the reference.
        front: the numbers of the trials that no other beats.
        reference: what hypervolume is measured from, per objective; empty with one objective.
        hypervolume: of the front, with its interval; None with one objective.
        convergence: after each trial the best mean so far, or the hypervolume.
        held_out: per trial of the front, and of the start, the means over held-out prompts.
        grid: the same of a grid that cost as much, where there was one.
        started: whether trial 0 is the start, which was inside the bounds.
    """

    objectives: tuple[str, ...]
    trials: tuple[Trial, ...]
    best: int
    front: tuple[int, ...]
    reference: tuple[float, ...]
    hypervolume: Mean | None
    convergence: tuple[float, ...]
    held_out: Mapping[int, tuple[Mean, ...]]
    grid: GridOutcome | None = None
    started: bool = False

    @property
    def params(self) -> Point:
        """The values of the best."""
        return self.trials[self.best].params

    def means(self, number: int) -> tuple[Mean, ...]:
        """The means of one trial's objectives, with their intervals."""
        return means_of(self.trials[number].measured, len(self.objectives))

    @property
    def stderr(self) -> dict[str, float]:
        """The standard error of each of the best trial's means, over prompts."""
        values = np.array([*self.trials[self.best].measured.values()], dtype=float)
        count = len(values)
        spread = values.std(axis=0, ddof=1) / count**0.5 if count > 1 else values[0] * np.nan
        return dict(zip(self.objectives, map(float, spread), strict=True))


@dataclass(frozen=True)
class GridOutcome:
    """What a grid of the same cost has found.

    Attributes:
        points: the grid.
        best: the index of its best point, as of a trial.
        front: the indices of its front.
        means: of its best, with intervals.
        hypervolume: of its front, from the search's reference; None with one objective.
        gain: how much better the search is: of hypervolumes, or of the best means, where more is
            better also of a score that is minimised; with the interval, paired over prompts.
    """

    points: tuple[Point, ...]
    best: int
    front: tuple[int, ...]
    means: tuple[Mean, ...]
    hypervolume: Mean | None
    gain: Mean


def outcome_of(
    objectives: Sequence[str],
    trials: Sequence[Trial],
    *,
    weights: Mapping[str, float] | None = None,
    reference: Mapping[str, float] | None = None,
    held_out: Mapping[int, Measured] | None = None,
    grid: Sequence[tuple[Point, Measured]] = (),
    started: bool = False,
) -> Outcome:
    """The outcome of trials; those that were pruned are on no front.

    Args:
        objectives: in the order of measured values, with a minus where less is better.
        weights: of the objectives, by names without minus, to choose a point of the front by.
        reference: of hypervolume, by names without minus; left out, the worst of every objective
            over trials and grid.
        held_out: per trial number, what was measured of held-out prompts.
        grid: points of the grid, and what was measured.
        started: whether trial 0 is the start.
    """
    signs = np.array([-1.0 if name.startswith("-") else 1.0 for name in objectives])
    plain = [name.removeprefix("-") for name in objectives]
    complete = [trial for trial in trials if not trial.pruned]
    own = _Points([trial.measured for trial in complete], signs)
    other = _Points([measured for _, measured in grid], signs) if grid else own
    worst = np.concatenate([own.means, other.means]).min(axis=0)
    if reference is not None:
        worst = signs * [reference[name] for name in plain]
    weighed = None if weights is None else np.array([weights.get(name, 0.0) for name in plain])
    front, several = own.front(), len(objectives) > 1
    return Outcome(
        tuple(objectives),
        tuple(trials),
        complete[own.best(worst, weighed)].number,
        tuple(complete[i].number for i in front),
        tuple((signs * worst).tolist()) if several else (),
        own.volume(worst).mean if several else None,
        _convergence(trials, signs, worst),
        {n: means_of(values, len(signs)) for n, values in (held_out or {}).items()},
        _grid_outcome(own, grid, other, worst, weighed) if grid else None,
        started,
    )


def means_of(measured: Measured, objectives: int) -> tuple[Mean, ...]:
    """The mean of each objective over prompts, with its interval."""
    return tuple(
        interval({id: [values[i]] for id, values in measured.items()}) for i in range(objectives)
    )


@dataclass(frozen=True)
class _Volume:
    mean: Mean
    resampled: Any  # (RESAMPLES,)


class _Points:
    """Points that were measured on the same prompts; every objective is maximised."""

    def __init__(self, measured: Sequence[Measured], signs: Any) -> None:
        values = [[own[id] for id in measured[0]] for own in measured]
        self.values = signs * np.array(values, dtype=float)  # (points, prompts, objectives)
        self.means = self.values.mean(axis=1)  # (points, objectives)

    def front(self) -> list[int]:
        """The indices of the points that no other beats; of equal points, of the first."""
        means = np.vectorize(rounded)(self.means)
        if means.shape[1] == 1:
            return [int(means[:, 0].argmax())]
        _, first = np.unique(means, axis=0, return_index=True)
        return pareto({int(i): means[i] for i in first})

    def best(self, reference: Any, weights: Any) -> int:
        """The index of the point that is chosen from the front."""
        front = self.front()
        boxes = (self.means[front] - reference).prod(axis=1)
        ranks = boxes if weights is None else self.means[front] @ np.abs(weights)
        return front[int(ranks.argmax())]

    def resampled(self) -> Any:
        """``(RESAMPLES, points, objectives)`` means of resampled prompts, the same for all."""
        prompts = self.values.shape[1]
        picks = np.random.default_rng(SEED).integers(prompts, size=(RESAMPLES, prompts))
        counts = np.apply_along_axis(np.bincount, 1, picks, minlength=prompts)
        return np.einsum("rp,npo->rno", counts / prompts, self.values)

    def volume(self, reference: Any) -> _Volume:
        """The hypervolume of the front."""
        every = np.array([hypervolume(means, reference) for means in self.resampled()])
        return _Volume(
            _mean(hypervolume(self.means, reference), every, self.values.shape[1]), every
        )


def _grid_outcome(
    own: _Points,
    grid: Sequence[tuple[Point, Measured]],
    other: _Points,
    worst: Any,
    weights: Any,
) -> GridOutcome:
    ours, theirs = own.best(worst, weights), other.best(worst, weights)
    volume: Mean | None = None
    if len(worst) > 1:
        own_volume, other_volume = own.volume(worst), other.volume(worst)
        volume, prompts = other_volume.mean, own.values.shape[1]
        more = own_volume.mean.mean - volume.mean
        gain = _mean(more, own_volume.resampled - other_volume.resampled, prompts)
    else:
        more = own.values[ours, :, 0] - other.values[theirs, :, 0]
        gain = interval({i: [float(value)] for i, value in enumerate(more)})
    return GridOutcome(
        tuple(point for point, _ in grid),
        theirs,
        tuple(other.front()),
        means_of(grid[theirs][1], len(worst)),
        volume,
        gain,
    )


def _convergence(trials: Sequence[Trial], signs: Any, reference: Any) -> tuple[float, ...]:
    """After each trial the best mean so far, or the hypervolume so far; before any, NaN."""
    so_far, values = list[Any](), list[float]()
    for trial in trials:
        if not trial.pruned:
            so_far.append(signs * [trial.mean(i) for i in range(len(signs))])
        if not so_far:
            values.append(float("nan"))
        elif len(signs) == 1:
            values.append(float(signs[0] * max(so_far)[0]))
        else:
            values.append(hypervolume(so_far, reference))
    return tuple(values)


def _mean(mean: float, resampled: Any, n: int) -> Mean:
    low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Mean(float(mean), float(low), float(high), n)
