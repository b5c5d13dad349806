"""What is searched: a bounded axis for each parameter, and weights on a simplex."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ...errors import ArgumentError, quoted
from ...formula import Plan
from ...formula.scalar import parameters
from ...grammar import did_you_mean
from ...inputs.grid import Point, points_of
from ...inputs.runfile import TEMPERATURE

Proposal = dict[str, float]  # a value per axis, as the sampler draws it
_DIGITS = 6  # significant, of a value that a formula gets
_OPTIONS = ("from", "to", "log", "step")


@dataclass(frozen=True)
class Axis:
    """The values of one parameter, from ``low`` to ``high``; multiples of ``step`` from ``low``."""

    name: str
    low: float
    high: float
    integer: bool = False
    log: bool = False
    step: float | None = None

    @property
    def distribution(self) -> Any:
        """The axis as optuna has it."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.integer:
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=step)
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def rounded(self, value: float) -> float:
        """A value in few digits, inside the axis."""
        return min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def has(self, value: float) -> bool:
        """Whether a value is on the axis."""
        steps = (value - self.low) / (self.step or 1)
        on_step = (self.step is None and not self.integer) or math.isclose(steps, round(steps))
        return self.low <= value <= self.high and on_step

    def spread(self, count: int) -> list[float]:
        """At most so many values, evenly from end to end; one is the middle."""
        shares = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
        if self.log:
            ratio = math.log(self.high / self.low)
            values = [self.low * math.exp(ratio * share) for share in shares]
        else:
            values = [self.low + (self.high - self.low) * share for share in shares]
        if self.integer or self.step:
            step = self.step or 1
            values = [self.low + step * round((value - self.low) / step) for value in values]
        return list(dict.fromkeys(self.rounded(value) for value in values))

    @property
    def most(self) -> float:
        """How many values there are."""
        if not self.integer and self.step is None:
            return math.inf if self.high > self.low else 1
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1


@dataclass(frozen=True)
class Simplex:
    """Parameters from 0 that add up to 1, by axes of which each is uniform where they are."""

    names: tuple[str, ...]

    @property
    def axes(self) -> list[Axis]:
        """One axis fewer than names: shares of what is left (Devroye 1986, stick breaking)."""
        return [Axis(f"simplex({name})", 0.0, 1.0) for name in self.names[:-1]]

    def point(self, proposal: Mapping[str, float]) -> Point:
        """The weights of shares."""
        left, point = 1.0, Point()
        for i, (name, axis) in enumerate(zip(self.names, self.axes, strict=False)):
            part = 1 - (1 - proposal[axis.name]) ** (1 / (len(self.names) - 1 - i))
            point[name] = round(left * part, _DIGITS)
            left -= point[name]
        return point | {self.names[-1]: round(max(left, 0.0), _DIGITS)}

    def proposal(self, point: Mapping[str, float]) -> Proposal | None:
        """The shares of weights; None where they are not on the simplex."""
        weights = [point[name] for name in self.names]
        if min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-6):
            return None
        left, proposal = 1.0, Proposal()
        for i, axis in enumerate(self.axes):
            part = weights[i] / left if left > 0 else 0.0
            proposal[axis.name] = 1 - max(0.0, 1 - part) ** (len(weights) - 1 - i)
            left -= weights[i]
        return proposal


@dataclass(frozen=True)
class Space:
    """All that is searched."""

    axes: tuple[Axis, ...]
    simplexes: tuple[Simplex, ...] = ()

    @property
    def names(self) -> list[str]:
        """The parameters, in order."""
        free = [axis.name for axis in self.axes]
        return [*free, *(name for each in self.simplexes for name in each.names)]

    @property
    def distributions(self) -> dict[str, Any]:
        """The axes as optuna has them, by name."""
        inner = (axis for each in self.simplexes for axis in each.axes)
        return {axis.name: axis.distribution for axis in (*self.axes, *inner)}

    def point(self, proposal: Mapping[str, float]) -> Point:
        """The values of the parameters."""
        point = {axis.name: axis.rounded(float(proposal[axis.name])) for axis in self.axes}
        for each in self.simplexes:
            point |= each.point(proposal)
        return point

    def proposal(self, point: Mapping[str, float]) -> Proposal | None:
        """Where a point lies on the axes; None where it does not, or where a value is missing."""
        if any(name not in point for name in self.names):
            return None
        if not all(axis.has(point[axis.name]) for axis in self.axes):
            return None
        proposal: Proposal = {
            axis.name: (int if axis.integer else float)(point[axis.name]) for axis in self.axes
        }
        for each in self.simplexes:
            if (shares := each.proposal(point)) is None:
                return None
            proposal |= shares
        return proposal

    def grid(self, most: int) -> list[Point]:
        """A full grid of at most so many points: each axis in turn gets one more value."""
        parts: list[Axis | Simplex] = [*self.axes, *self.simplexes]
        counts = [1] * len(parts)
        grown = True
        while grown:
            grown = False
            for i in sorted(range(len(parts)), key=lambda i: counts[i]):
                more = [count + (i == j) for j, count in enumerate(counts)]
                sizes = [_size(*each) for each in zip(parts, more, strict=True)]
                part = parts[i]
                room = isinstance(part, Simplex) or more[i] <= part.most
                if room and math.prod(sizes) <= most:
                    counts, grown = more, True
                    break
        columns = [_values(*each) for each in zip(parts, counts, strict=True)]
        return [
            {name: value for point in points for name, value in point.items()}
            for points in product(*columns)
        ]

    def check(self, plan: Plan, params: Mapping[str, float]) -> None:
        """Check that the formula takes both ends of every axis.

        Raises:
            FormulaError: a number out of its limits there.
        """
        for axis in self.axes:
            for end in (axis.low, axis.high):
                if axis.name != TEMPERATURE:
                    plan.values({**params, axis.name: end})


def _size(part: Axis | Simplex, count: int) -> int:
    """How many points a part has with so many values."""
    if isinstance(part, Axis):
        return count
    return 1 if count == 1 else math.comb(count - 1 + len(part.names) - 1, len(part.names) - 1)


def _values(part: Axis | Simplex, count: int) -> list[Point]:
    if isinstance(part, Axis):
        return [{part.name: value} for value in part.spread(count)]
    if count == 1:
        return [part.point({axis.name: 0.5 for axis in part.axes})]
    return points_of({"simplex": [*part.names], "step": f"1/{count - 1}"})


def space_of(bounds: Mapping[str, Any], plan: Plan, constraints: Sequence[str] = ()) -> Space:
    """The space of a formula's parameters, and of the temperature where it has bounds.

    Whole numbers are drawn for a parameter on which one of the formula's whole numbers depends:
    ``k`` of ``rerank(r, k=k)``.

    Args:
        bounds: per parameter ``(low, high)``, or ``{"from": low, "to": high, "log": True}``, or
            with a ``step``.
        plan: the formula's.
        constraints: ``simplex(a, b)`` each: these are from 0 and add up to 1, without bounds or
            within (0, 1).

    Raises:
        ArgumentError: names the bound and what to write.
    """
    simplexes = [_simplex(each, bounds) for each in constraints]
    on_simplex = [name for each in simplexes for name in each.names]
    known = plan.params | {TEMPERATURE}
    for name in (*bounds, *on_simplex):
        if name not in known:
            cure = did_you_mean(name, sorted(known))
            raise ArgumentError(f"bounds.{name}: no term and no stage uses {name}; {cure}")
    if twice := {name for name in on_simplex if on_simplex.count(name) > 1}:
        raise ArgumentError(f"{', '.join(sorted(twice))} is on two simplexes")
    if not bounds and not simplexes:
        raise ArgumentError("bounds: name what is searched, as in {a: [0, 2]}")
    integers = _integers(plan)
    axes = [_axis(n, v, n in integers) for n, v in bounds.items() if n not in on_simplex]
    return Space(tuple(axes), tuple(simplexes))


def _integers(plan: Plan) -> set[str]:
    """The parameters on which numbers depend that must be whole."""
    integers = [scalar.expression for scalar in plan.scalars if scalar.limits.integer]
    return set().union(*map(parameters, integers))


def _simplex(constraint: str, bounds: Mapping[str, Any]) -> Simplex:
    word, _, inner = constraint.strip().partition("(")
    names = tuple(name.strip() for name in inner.removesuffix(")").split(","))
    written = word.strip() == "simplex" and inner.endswith(")")
    if not written or not 1 < len(names) == len(set(names)):
        problem = f"constraints: {quoted(constraint)}: rewards are searched on a simplex at most"
        raise ArgumentError(f"{problem}; write simplex(a, b), or narrower bounds")
    for name in names:
        if bounds.get(name) is not None and tuple(_ends(name, bounds[name])[:2]) != (0, 1):
            raise ArgumentError(f"bounds.{name}: on a simplex it is from 0 to 1; leave it out")
    return Simplex(names)


def _axis(name: str, bound: Any, integer: bool) -> Axis:
    low, high, log, step = _ends(name, bound)
    where = f"bounds.{name}"
    if not low < high:
        cure = "write the lower first, or give the parameter its value"
        raise ArgumentError(f"{where} goes from {low:g} to {high:g}; {cure}")
    if log and (low <= 0 or step is not None):
        raise ArgumentError(f"{where}: a logarithmic axis begins above 0, and has no step")
    if step is not None and not 0 < step <= high - low:
        raise ArgumentError(f"{where}: a step of {step:g} does not fit from {low:g} to {high:g}")
    numbers = [low, high] if step is None else [low, high, step]
    if integer and any(number != int(number) for number in numbers):
        raise ArgumentError(f"{where}: the formula needs whole numbers, not {bound}")
    if step is not None:
        high = float(f"{low + step * math.floor((high - low) / step + 1e-9):.12g}")
    return Axis(name, low, high, integer, log, step)


def _ends(name: str, bound: Any) -> tuple[float, float, bool, float | None]:
    """The ends of a bound, whether it is logarithmic, and its step."""
    cure = "write [low, high], or {from: low, to: high, log: true}"
    options: Mapping[str, Any] = {}
    if isinstance(bound, Mapping):
        if unknown := [key for key in bound if key not in _OPTIONS]:
            known = ", ".join(_OPTIONS)
            raise ArgumentError(f"bounds.{name}: there is no option {unknown[0]}; known: {known}")
        options, bound = bound, (bound.get("from"), bound.get("to"))
    ends = list(bound) if isinstance(bound, (list, tuple)) else []
    step = options.get("step")
    for end in [*ends, *([] if step is None else [step])]:
        number = isinstance(end, (int, float)) and not isinstance(end, bool)
        if not (number and math.isfinite(end)):
            problem = f"bounds.{name}: {quoted(end)} is no end; a search needs both"
            raise ArgumentError(f"{problem}: {cure}")
    if len(ends) != 2:
        raise ArgumentError(f"bounds.{name} is {quoted(bound)}; a search needs two ends: {cure}")
    return float(ends[0]), float(ends[1]), bool(options.get("log", False)), step
