"""Pareto fronts of points: which are on it, its hypervolume, and the mean inner product.

Hypervolume and dominance are moocore's; the mean inner product is the protocol of PARM and UniARM.
All objectives are maximised here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DescantError
from ..extras import require
from ..inputs.grid import simplex_of
from ..inputs.linear import Sum
from ..inputs.runfile import RunFile, RunFileError

Vector = NDArray[np.float64]  # (objectives,)
Means = Mapping[int, Sequence[float] | Vector]  # per point, the mean of each objective
DIGITS = 9  # means that agree to so many digits are equal: scores are rounded


def pareto(points: Means) -> list[int]:
    """The points that no other is at least as good as in every objective, and better in one."""
    import moocore

    numbers = sorted(points)
    values = np.round(np.array([points[number] for number in numbers], dtype=float), DIGITS)
    kept = moocore.is_nondominated(values, maximise=True, keep_weakly=True)
    return [number for number, good in zip(numbers, kept, strict=True) if good]


def hypervolume(
    points: Sequence[Sequence[float] | Vector], reference: Sequence[float] | Vector
) -> float:
    """The volume between the reference and the points above it."""
    import moocore

    return float(moocore.hypervolume(np.array(points), ref=list(reference), maximise=True))


def front_of(
    run: RunFile, means: Mapping[str, Means], point_index: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """The content of ``front.json``; objectives are empty where the run has none.

    Args:
        run: the run file.
        means: per formula and point, the mean of each objective; points without one are left out.
        point_index: per formula, the index of its own point at each point of the sweep; formulas
            that have none are measured in a fit.
    """
    names = run.objectives
    signs = np.array([-1.0 if name.startswith("-") else 1.0 for name in names])
    better = {
        formula: {number: signs * values for number, values in points.items()}
        for formula, points in means.items()
    }
    flat = [(f, n, values) for f, points in better.items() for n, values in points.items()]
    if not names or not flat:
        return {"objectives": names, "formulas": {}}
    require("a front", "moocore")
    reference = _reference(run, signs, [values for _, _, values in flat])
    weights = preferences(run)
    alone = run.front.reference is None and len(flat) == 1  # the reference would be the point
    formulas = {}
    for formula, points in better.items():
        front = pareto(points)
        formulas[formula] = {
            "points": sorted(points),
            "front": front,
            "hypervolume": None if alone else hypervolume([points[n] for n in front], reference),
            "reference": (signs * reference).tolist(),
            "mean_inner_product": _inner(weights, points, point_index.get(formula)),
        }
    best = pareto({i: values for i, (_, _, values) in enumerate(flat)})
    together = [[flat[i][0], flat[i][1]] for i in best]
    return {"objectives": names, "formulas": formulas, "front": together}


def preferences(run: RunFile) -> list[list[float]] | None:
    """Per point of the sweep, the weight of each objective; None where the run has none."""
    names = [name.removeprefix("-") for name in run.objectives]
    if run.front.preference:
        try:
            preference = Sum(run.front.preference, names, run.params)
        except DescantError as error:
            raise RunFileError(f"front.preference: {error}") from None
        weights = [preference.weights({**run.params, **point}) for point in run.points]
        return [[own.get(name, 0.0) for name in names] for own in weights]
    over = simplex_of(run.sweep)
    if len(over) == len(names) and all(set(over) <= set(point) for point in run.points):
        return [[point[name] for name in over] for point in run.points]
    return None


def _inner(
    weights: Sequence[Sequence[float]] | None, points: Means, index: Sequence[int] | None
) -> float | None:
    """The mean inner product of preferences with the means at their points."""
    if weights is None or index is None or any(number not in points for number in index):
        return None
    products = [np.dot(own, points[number]) for own, number in zip(weights, index, strict=True)]
    return float(np.mean(products))


def _reference(run: RunFile, signs: Vector, every: Sequence[Vector]) -> Vector:
    worst: Vector = np.min(every, axis=0)
    if run.front.reference is None:
        return worst
    names = [name.removeprefix("-") for name in run.objectives]
    if set(run.front.reference) != set(names):
        raise RunFileError(f"front.reference: give a number for each of {', '.join(names)}")
    return signs * [run.front.reference[name] for name in names]
