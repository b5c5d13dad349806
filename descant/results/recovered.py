"""Recovered gaps: the share of the gap between two formulas that a point closes.

``(x - from) / (to - from)`` over means: 0 is the first formula, 1 the second, more is beyond it.
From the tuned weak model to the tuned strong one it is the performance gap recovered of Burns et
al. 2023 (*Weak-to-Strong Generalization*).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..grammar import did_you_mean
from ..inputs.runfile import RunFile, RunFileError

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..inputs.expand import Setting
    from ..scoring.intervals import Mean

GapEnds = dict[str, list[tuple[str, int]]]


def gap_ends(run: RunFile, settings: Sequence[Setting]) -> GapEnds:
    """Per recovered score, the formula and the point at both ends of its gap.

    Raises:
        RunFileError: an end that is several points, or none.
    """
    points = {setting.name: len(setting.points) for setting in settings}
    return {
        name: [point_named(end, points, f"score.{name}.between") for end in score.between]
        for name, score in (run.score or {}).items()
        if score.between
    }


def point_named(text: str, points: Mapping[str, int], where: str) -> tuple[str, int]:
    """The formula and the number of a point: ``arms:3``, or ``base`` where that has one point.

    Args:
        text: as written in a run file.
        points: how many points each formula has.
        where: the key that it is written under, for messages.

    Raises:
        RunFileError: no such formula, several points, or none of that number.
    """
    formula, _, number = text.partition(":")
    if formula not in points:
        raise RunFileError(
            f"{where} names {formula}, which is no formula; {did_you_mean(formula, points)}"
        )
    count = points[formula]
    if not number and count > 1:
        raise RunFileError(f"{where}: {formula} has {count} points; name one, as {formula}:0")
    if number and not (number.isdecimal() and int(number) < count):
        problem = f"{where}: {formula} has no point {number!r}"
        raise RunFileError(f"{problem}; its points are 0 to {count - 1}")
    return formula, int(number or 0)


def interval_columns(name: str, mean: Mean) -> dict[str, Any]:
    """The columns of a mean, in a table of points."""
    keys = (name, f"{name}_low", f"{name}_high", f"{name}_n")
    return dict(zip(keys, (mean.mean, mean.low, mean.high, mean.n), strict=True))


def by_prompt(table: DataFrame, name: str) -> dict[object, list[float]]:
    """The values of a score for the samples of each prompt."""
    values: dict[object, list[float]] = table.dropna(subset=[name]).groupby("id")[name].agg(list)
    return dict(values)


def recovered(
    table: DataFrame, run: RunFile, ends: GapEnds
) -> dict[tuple[str, int], dict[str, Any]]:
    """Per formula and point the recovered scores, with their intervals.

    They are columns of ``points``; there are none while a score or an end is missing.
    """
    from ..scoring.intervals import share

    columns: dict[tuple[str, int], dict[str, Any]] = {}
    for name, (start, end) in ends.items():
        of = (run.score or {})[name].recovered or ""
        if of not in table:
            continue
        groups = table.dropna(subset=[of]).groupby(["formula", "point"])
        values = {(str(f), int(point)): by_prompt(own, of) for (f, point), own in groups}
        if start not in values or end not in values:
            continue
        for key, own in values.items():
            gap = share(own, values[start], values[end])
            columns.setdefault(key, {}).update(interval_columns(name, gap))
    return columns
