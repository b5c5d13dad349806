"""What a fit may choose: the parameters, their bounds, and simplexes that tie some together.

Bounds and constraints are data: nothing in them is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from ...errors import ArgumentError, quoted
from ...grammar import did_you_mean

SIMPLEX = "simplex"


@dataclass(frozen=True)
class Space:
    """The parameters of a fit, in order.

    Attributes:
        names: of the parameters.
        lower, upper: the bounds of each; infinite where it is free.
        simplexes: names that are at least 0 and add up to 1.
        start: where the fit begins, within all of that.
    """

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    simplexes: tuple[tuple[str, ...], ...] = ()
    start: tuple[float, ...] = ()

    @property
    def sums(self) -> np.ndarray:
        """``(simplexes, names)``: the parameters that add up to 1, a row for each simplex."""
        rows = [[float(name in simplex) for name in self.names] for simplex in self.simplexes]
        return np.array(rows).reshape(len(rows), len(self.names))

    def params(self, values: Iterable[float]) -> dict[str, float]:
        """Values in the order of the names, by name."""
        return {name: float(value) for name, value in zip(self.names, values, strict=True)}

    def projected(self, values: Sequence[float]) -> tuple[float, ...]:
        """The values moved into the bounds, and onto the simplexes."""
        moved = dict(zip(self.names, np.clip(values, self.lower, self.upper), strict=True))
        for simplex in self.simplexes:
            total = sum(moved[name] for name in simplex)
            for name in simplex:
                moved[name] = moved[name] / total if total > 0 else 1 / len(simplex)
        return tuple(float(value) for value in moved.values())


def space_of(
    used: Iterable[str],
    values: Mapping[str, float],
    bounds: Mapping[str, Any] | None,
    constraints: Sequence[str],
) -> Space:
    """The space of a fit.

    Args:
        used: parameters that the formula uses.
        values: where each of them begins.
        bounds: ``(low, high)`` by name, None for a free one; these are fitted, and the others keep
            their values. Left out, all are fitted, and free.
        constraints: ``"simplex(a, b)"``, each.

    Raises:
        ArgumentError: a name that no term uses, bounds that are none, or a constraint of no known
            form.
    """
    known = sorted(used)
    simplexes = tuple(_simplex(text) for text in _texts(constraints))
    tied = [name for simplex in simplexes for name in simplex]
    chosen = dict.fromkeys([*(bounds if bounds is not None else known), *tied])
    for name in chosen:
        if name not in known:
            cure = did_you_mean(name, known)
            raise ArgumentError(f"no term uses the parameter {name}; {cure or 'leave it out'}")
    if not chosen:
        raise ArgumentError("the formula has no parameters; write one in it: base + a*arm")
    for name in tied:
        if tied.count(name) > 1:
            raise ArgumentError(f"{name} is in two simplexes, or twice in one")
    limits = {name: _limits(name, (bounds or {}).get(name)) for name in chosen}
    for name in tied:
        low, high = limits[name]
        limits[name] = max(low, 0.0), min(high, 1.0)
    names = tuple(chosen)
    lower, upper = zip(*(limits[name] for name in names), strict=True)
    space = Space(names, lower, upper, simplexes)
    for row, simplex in zip(space.sums, simplexes, strict=True):
        least, most = (float(row @ np.nan_to_num(side)) for side in (lower, upper))
        if least > 1 or most < 1:
            raise ArgumentError(f"simplex({', '.join(simplex)}) adds up to 1, outside its bounds")
    start = space.projected([float(values[name]) for name in names])
    return Space(names, lower, upper, simplexes, start)


def _texts(constraints: Any) -> list[str]:
    if isinstance(constraints, str) or not all(isinstance(each, str) for each in constraints):
        raise ArgumentError('constraints is a list of texts, ["simplex(a, b)"]')
    return list(constraints)


def _simplex(text: str) -> tuple[str, ...]:
    """The names in ``simplex(a, b)``."""
    word, _, inner = text.strip().partition("(")
    names = tuple(name.strip() for name in inner.removesuffix(")").split(","))
    if word.strip() != SIMPLEX or not inner.endswith(")") or len(names) < 2:
        raise ArgumentError(f"{quoted(text)} is no constraint; write simplex(a, b)")
    if not all(name.isidentifier() for name in names):
        raise ArgumentError(f"{quoted(text)}: a simplex holds names of parameters; simplex(a, b)")
    return names


def _limits(name: str, limits: Any) -> tuple[float, float]:
    if limits is None:
        return -math.inf, math.inf
    pair = list(limits) if isinstance(limits, Iterable) and not isinstance(limits, str) else []
    ends = [side for side in pair if isinstance(side, Real) and not isinstance(side, bool)]
    open_ends = [side is None for side in pair]
    if len(pair) != 2 or len(ends) + sum(open_ends) != 2 or any(map(math.isnan, ends)):
        raise ArgumentError(f"bounds of {name} are {quoted(limits)}; write (low, high), or None")
    low, high = (
        (-math.inf if pair[0] is None else pair[0]),
        math.inf if pair[1] is None else pair[1],
    )
    if low > high:
        raise ArgumentError(f"bounds of {name} go from {low:g} up to {high:g}; write (low, high)")
    return float(low), float(high)
