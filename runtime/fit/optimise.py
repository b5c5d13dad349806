"""The best values of an objective in a space, and how sure they are.

Where the curvature is exact: Newton's steps, each the solution of a small quadratic programme over
the bounds and simplexes, with a line search. Else: scipy's SLSQP, by exact gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ...extras import pip_install
from .space import Space

STEPS = 60
TOLERANCE = 1e-9  # of a mean per token that the next step would still gain
NEAR = 1e-7  # of a bound that is hit
FLAT = 1e-6  # of the largest curvature, relative to the parameters' own
LARGEST = 1e6  # of a value; beyond it a likelihood grows without end

Objective = Callable[[np.ndarray, int], tuple[float, np.ndarray, np.ndarray]]  # to minimise


@dataclass
class Optimum:
    """Where an objective is least.

    Attributes:
        values: of the parameters.
        loss: there; and ``curvature``, ``(P, P)``, its second derivatives.
        trace: per evaluation, the values and the loss.
    """

    values: np.ndarray
    loss: float
    curvature: np.ndarray
    trace: list[tuple[np.ndarray, float]] = field(default_factory=list)


def minimiser() -> Any:
    """scipy's ``minimize``.

    Raises:
        ArgumentError: it is not installed.
    """
    try:
        from scipy.optimize import minimize
    except ImportError:
        raise ArgumentError(f"a fit needs scipy: {pip_install('fit')}") from None
    return minimize


def newton(objective: Objective, space: Space, start: np.ndarray, scale: float) -> Optimum:
    """Minimise by Newton's steps; ``scale``: how many tokens the loss is of."""
    minimiser()
    at, trace = np.array(start, dtype=float), list[tuple[np.ndarray, float]]()
    loss, gradient, curvature = objective(at, 2)
    trace.append((at, loss))
    for _ in range(STEPS):
        step = _step(space, at, gradient / scale, curvature / scale)
        gain = -(gradient @ step + step @ curvature @ step / 2) / scale
        if gain < TOLERANCE:
            return Optimum(at, loss, curvature, trace)
        length, slope = 1.0, gradient @ step
        while True:
            new = _within(space, at + length * step)
            values = objective(new, 2)
            trace.append((new, values[0]))
            if values[0] <= loss + 1e-4 * length * slope or length < 1e-6:
                break
            length /= 2
        if values[0] >= loss and length < 1e-6:  # float32 knows no better
            return Optimum(at, loss, curvature, trace)
        at, (loss, gradient, curvature) = new, values
        _check_size(space, at)
    raise ArgumentError(_endless(space, at))


def by_gradients(objective: Objective, space: Space, start: np.ndarray, scale: float) -> Optimum:
    """Minimise by scipy's SLSQP; the curvature is the difference of gradients."""
    trace = list[tuple[np.ndarray, float]]()

    def both(values: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient, _ = objective(_within(space, values), 1)
        trace.append((np.array(values), loss))
        return loss / scale, gradient / scale

    found = minimiser()(
        both, start, jac=True, method="SLSQP", bounds=_ends(space.lower, space.upper),
        constraints=_sums_of(space), options={"maxiter": 4 * STEPS, "ftol": 1e-10},
    )  # fmt: skip
    at = _within(space, found.x)
    _check_size(space, at)
    if not found.success and found.status != 8:  # 8: float32 knows no better direction
        raise ArgumentError(f"the fit did not converge: {found.message}; give bounds")
    loss, _, _ = objective(at, 0)
    return Optimum(at, loss, differences(objective, space, at), trace)


def differences(objective: Objective, space: Space, at: np.ndarray) -> np.ndarray:
    """``(P, P)`` second derivatives by differences of exact gradients, inside the bounds."""
    columns = []
    for i, value in enumerate(at):
        step = 1e-3 * max(1.0, abs(value))
        ends = [min(max(value + side, space.lower[i]), space.upper[i]) for side in (-step, step)]
        gradients = [objective(np.where(np.arange(len(at)) == i, end, at), 1)[1] for end in ends]
        columns.append((gradients[1] - gradients[0]) / max(ends[1] - ends[0], 1e-300))
    curvature = np.array(columns)
    return np.asarray((curvature + curvature.T) / 2)


def uncertainty(
    space: Space, optimum: Optimum, tokens: float
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The covariance ``(P, P)``, NaN at a bound that is hit; and the parameters that hit one.

    Those are moved there exactly.

    Raises:
        ArgumentError: a direction that no text decides; says which.
    """
    at, curvature = optimum.values, optimum.curvature
    room = 1 + np.abs(at)
    hit = (at - space.lower <= NEAR * room) | (np.subtract(space.upper, at) <= NEAR * room)
    free = ~hit
    basis = _tangent(space.sums[:, free])
    covariance = np.full((len(at), len(at)), math.nan)
    if basis.shape[1]:
        inner = basis.T @ curvature[np.ix_(free, free)] @ basis
        _check_flat(space, free, basis, inner, tokens)
        found = basis @ np.linalg.inv(inner) @ basis.T
        covariance[np.ix_(free, free)] = found
    elif free.any():
        covariance[np.ix_(free, free)] = 0.0
    optimum.values[hit] = np.where(at - space.lower <= NEAR * room, space.lower, space.upper)[hit]
    return covariance, tuple(name for name, is_hit in zip(space.names, hit, strict=True) if is_hit)


def _check_flat(
    space: Space, free: np.ndarray, basis: np.ndarray, inner: np.ndarray, tokens: float
) -> None:
    lengths, axes = np.linalg.eigh((inner + inner.T) / 2)
    if lengths[0] > FLAT * max(lengths[-1], 1e-3 * tokens * FLAT):
        return
    direction = basis @ axes[:, 0]
    direction /= np.abs(direction).max()
    names = [name for name, is_free in zip(space.names, free, strict=True) if is_free]
    parts = [
        f"{value:+.3g}*{name}"
        for name, value in zip(names, direction, strict=True)
        if abs(value) > 1e-3
    ]
    moved = " ".join(parts).removeprefix("+").replace("1*", "", 1) if len(parts) > 1 else names[
        int(np.abs(direction).argmax())]  # fmt: skip
    problem = f"no text decides {moved}: along it every value is as likely"
    raise ArgumentError(f"{problem}; bound or fix one of its parameters, or leave it out")


def _tangent(sums: np.ndarray) -> np.ndarray:
    """``(P, Q)`` an orthonormal basis of the directions that keep every simplex's sum."""
    size = sums.shape[1]
    if not len(sums):
        return np.eye(size)
    _, lengths, rows = np.linalg.svd(sums, full_matrices=True)
    rank = int((lengths > 1e-12).sum())
    return np.asarray(rows[rank:].T)


def _step(space: Space, at: np.ndarray, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """The step to the least of the quadratic model, within the space."""
    lengths, axes = np.linalg.eigh((curvature + curvature.T) / 2)
    least = max(1e-9 * float(np.abs(lengths).max()), 1e-12)
    model = (axes * np.maximum(np.abs(lengths), least)) @ axes.T
    low, high = space.lower - at, np.subtract(space.upper, at)
    basis = _tangent(space.sums)
    if not basis.shape[1]:
        return np.zeros_like(at)
    step = -basis @ np.linalg.solve(basis.T @ model @ basis, basis.T @ gradient)
    if (step >= low).all() and (step <= high).all():
        return np.asarray(step)
    found = minimiser()(
        lambda d: (gradient @ d + d @ model @ d / 2, gradient + model @ d), np.zeros_like(at),
        jac=True, method="SLSQP", bounds=_ends(low, high), constraints=_sums_of(space, 0.0),
        options={"ftol": 1e-15, "maxiter": 500},
    )  # fmt: skip
    return np.asarray(np.clip(found.x, low, high))


def _ends(low: Any, high: Any) -> list[tuple[float, float]]:
    return list(zip(low, high, strict=True))


def _sums_of(space: Space, total: float = 1.0) -> list[dict[str, Any]]:
    return [
        {"type": "eq", "fun": lambda x, row=row: row @ x - total, "jac": lambda x, row=row: row}
        for row in space.sums
    ]


def _within(space: Space, values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(values, space.lower, space.upper))


def _check_size(space: Space, at: np.ndarray) -> None:
    if np.abs(at).max() > LARGEST:
        raise ArgumentError(_endless(space, at))


def _endless(space: Space, at: np.ndarray) -> str:
    name = space.names[int(np.abs(at).argmax())]
    return f"the likelihood goes on growing with {name} (now {at[np.abs(at).argmax()]:g}); bound it"
