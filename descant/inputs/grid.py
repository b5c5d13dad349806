"""Grids: a run file's ``sweep`` as a list of points, each with a value for every swept name.

Fractions are exact, and become floats last: three tenths are 0.3, not 0.30000000000000004.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from ..errors import DescantError, quoted

Point = dict[str, float]
WORDS = ("simplex", "step", "random", "seed")
LIMIT = 100_000  # points of one sweep
_RANGE = {"from", "to", "step", "count", "log"}


class GridError(DescantError, ValueError):
    """A sweep that is no grid, or has too many points."""


def points_of(sweep: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Point]:
    """The points of a sweep: one grid, or several in turn; each point once.

    Raises:
        GridError: names the key, and what to write.

    >>> points_of({"a": [0, 0.5], "k": {"from": 5, "to": 10, "step": 5}})
    [{'a': 0.0, 'k': 5.0}, {'a': 0.0, 'k': 10.0}, {'a': 0.5, 'k': 5.0}, {'a': 0.5, 'k': 10.0}]
    >>> points_of({"simplex": ["help", "harm"], "step": 0.5})
    [{'help': 1.0, 'harm': 0.0}, {'help': 0.5, 'harm': 0.5}, {'help': 0.0, 'harm': 1.0}]
    >>> points_of({"random": 2, "w": {"from": 0.1, "to": 10, "log": True}, "seed": 1})
    [{'w': 0.185664}, {'w': 4.95299}]
    """
    blocks = [sweep] if isinstance(sweep, Mapping) else list(sweep)
    points: dict[tuple[tuple[str, float], ...], Point] = {}
    for block in blocks:
        if not isinstance(block, Mapping) or not block:
            raise GridError("sweep: a grid is names and their values, as in {a: [0, 0.5, 1]}")
        for point in _grid(block):
            points.setdefault(tuple(sorted(point.items())), point)
    names = {tuple(sorted(point)) for point in points.values()}
    if len(names) > 1:
        shown = " and ".join(", ".join(own) for own in sorted(names))
        raise GridError(f"sweep: every grid names the same parameters; here: {shown}")
    return list(points.values())


def simplex_of(sweep: Any) -> tuple[str, ...]:
    """The names on a sweep's simplex; empty where it has none."""
    blocks = [sweep] if isinstance(sweep, Mapping) else list(sweep or ())
    return next((tuple(b["simplex"]) for b in blocks if isinstance(b.get("simplex"), list)), ())


def _grid(block: Mapping[str, Any]) -> list[Point]:
    names = block.get("simplex")
    if names is not None and not (isinstance(names, list) and len(set(names)) == len(names) > 1):
        raise GridError("sweep.simplex: name two or more parameters, as in [w_help, w_harm]")
    axes = {name: value for name, value in block.items() if name not in WORDS}
    if twice := set(axes) & set(names or ()):
        raise GridError(f"sweep: {', '.join(sorted(twice))} is on the simplex and also an axis")
    if "random" in block:
        return _random_points(block, axes, names)
    if "seed" in block:
        raise GridError("sweep.seed: a grid that is not random has no seed; write random: how many")
    columns: list[list[Point]] = []
    if names is not None:
        if "step" not in block:
            problem = "sweep.step: a simplex has a step, as in step: 0.1, or random: how many"
            raise GridError(problem)
        columns.append(_simplex(names, block["step"]))
    elif "step" in block:
        raise GridError("sweep.step: only a simplex has it; write a: {from: 0, to: 1, step: 0.1}")
    columns += [[{name: value} for value in values(name, axis)] for name, axis in axes.items()]
    _check_count(math.prod(map(len, columns)))
    return [
        {name: value for part in parts for name, value in part.items()}
        for parts in itertools.product(*columns)
    ]


def values(name: str, axis: Any) -> list[float]:
    """The values of a list, a range or a number, in order.

    >>> values("a", {"from": 0, "to": 1, "count": 3})
    [0.0, 0.5, 1.0]
    """
    if isinstance(axis, Mapping):
        return _range(name, axis)
    listed = axis if isinstance(axis, list) else [axis]
    if not listed:
        raise GridError(f"sweep.{name}: an empty list leaves no points")
    return [float(_number(f"sweep.{name}", value)) for value in listed]


def _range(name: str, axis: Mapping[str, Any]) -> list[float]:
    start, end = _bounds(name, axis)
    if axis.get("log"):
        count = _integer(f"sweep.{name}.count", axis.get("count"), 2)
        ratio = math.log(end / start) / (count - 1)
        inner = [round(float(start) * math.exp(ratio * i), 6) for i in range(1, count - 1)]
        return [float(start), *inner, float(end)]
    if ("step" in axis) == ("count" in axis):
        raise GridError(f"sweep.{name}: a range has a step or a count, as in step: 0.1")
    if "count" in axis:
        count = _integer(f"sweep.{name}.count", axis["count"], 2)
        step = (end - start) / (count - 1)
    else:
        step = _number(f"sweep.{name}.step", axis["step"])
        if step <= 0:
            raise GridError(f"sweep.{name}.step is {axis['step']}; it must be above 0")
        count = math.floor((end - start) / step) + 1
    _check_count(count)
    return [float(start + i * step) for i in range(count)]


def _bounds(name: str, axis: Mapping[str, Any]) -> tuple[Fraction, Fraction]:
    if unknown := set(axis) - _RANGE:
        known = ", ".join(sorted(_RANGE))
        raise GridError(f"sweep.{name}: there is no option {unknown.pop()}; known: {known}")
    if "from" not in axis or "to" not in axis:
        raise GridError(f"sweep.{name}: a range has from and to, as in {{from: 0, to: 1}}")
    start = _number(f"sweep.{name}.from", axis["from"])
    end = _number(f"sweep.{name}.to", axis["to"])
    if end < start:
        raise GridError(f"sweep.{name}: it goes from {axis['from']} down to {axis['to']}")
    if axis.get("log") and start <= 0:
        raise GridError(f"sweep.{name}: a logarithmic range begins above 0")
    if axis.get("log") and "step" in axis:
        raise GridError(f"sweep.{name}: a logarithmic range has a count, and no step")
    return start, end


def _simplex(names: Sequence[str], step: Any) -> list[Point]:
    """Weights that are multiples of the step and sum to 1; the first name's decrease."""
    share = _number("sweep.step", step)
    if share <= 0 or (1 / share).denominator != 1:
        raise GridError(f"sweep.step is {step}; 1 must be a multiple of it, as of 0.1 or 1/3")
    parts = int(1 / share)
    places, bars = parts + len(names) - 1, len(names) - 1
    _check_count(math.comb(places, bars))
    cuts = [(-1, *cut, places) for cut in itertools.combinations(range(places), bars)]
    return [
        {name: float((end - start - 1) * share)
         for name, (start, end) in zip(names, itertools.pairwise(cut), strict=True)}
        for cut in reversed(cuts)
    ]  # fmt: skip


def _random_points(
    block: Mapping[str, Any], axes: Mapping[str, Any], names: Sequence[str] | None
) -> list[Point]:
    count = _integer("sweep.random", block["random"], 1)
    _check_count(count)
    if "step" in block:
        raise GridError("sweep.step: a random simplex has no step")
    draw = random.Random(_integer("sweep.seed", block.get("seed", 0), 0))
    points = []
    for _ in range(count):
        point: Point = {}
        if names is not None:  # uniform on the simplex: exponentials over their sum
            parts = [draw.expovariate(1.0) for _ in names]
            shares = [round(part / sum(parts), 6) for part in parts[:-1]]
            point |= dict(zip(names, [*shares, round(1 - sum(shares), 6)], strict=True))
        point |= {name: _random_value(name, axis, draw) for name, axis in axes.items()}
        points.append(point)
    return points


def _random_value(name: str, axis: Any, draw: random.Random) -> float:
    if not isinstance(axis, Mapping) or "step" in axis or "count" in axis:
        choices = values(name, axis)
        return choices[int(draw.random() * len(choices))]
    low, high = map(float, _bounds(name, axis))
    if axis.get("log"):
        return round(math.exp(draw.uniform(math.log(low), math.log(high))), 6)
    return round(draw.uniform(low, high), 6)


def _number(where: str, value: Any) -> Fraction:
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        raise GridError(f"{where}: {quoted(value)} is not a number") from None


def _integer(where: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise GridError(f"{where} is {quoted(value)}; it is a whole number from {least}")
    return value


def _check_count(count: int) -> None:
    if count > LIMIT:
        raise GridError(f"sweep: that is {count} points; at most {LIMIT} in one run")
