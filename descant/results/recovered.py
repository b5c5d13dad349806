"""Recovered gaps: how much of the way between two formulas a point has gone.

``(x - from) / (to - from)`` over means: 0 is the first formula, 1 the second, more is beyond it.
From the tuned weak model to the tuned strong one it is the performance gap recovered of Burns et
al. 2023 (*Weak-to-Strong Generalization*). It reads tables, and decodes and scores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..inputs.runfile import RunFile, RunFileError

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..runs.expand import Setting

Ends = dict[str, list[tuple[str, int]]]


def ends_of(run: RunFile, settings: Sequence[Setting]) -> Ends:
    """Per recovered score, the formula and the point at both of its ends.

    Args:
        run: the run file.
        settings: of the sweep: which points each formula has.

    Raises:
        RunFileError: an end that is several points, or none.
    """
    points = {setting.name: len(setting.points) for setting in settings}
    found: Ends = {}
    for name, score in (run.score or {}).items():
        for said in score.between or ():
            formula, _, number = said.partition(":")
            many = points[formula]
            if not number and many > 1:
                raise RunFileError(
                    f"score.{name}.between: {formula} has {many} points; name one, as {formula}:0"
                )
            if number and not (number.isdecimal() and int(number) < many):
                problem = f"score.{name}.between: {formula} has no point {number!r}"
                raise RunFileError(f"{problem}; its points are 0 to {many - 1}")
            found.setdefault(name, []).append((formula, int(number or 0)))
    return found


def recovered(table: DataFrame, run: RunFile, ends: Ends) -> dict[tuple[str, int], dict[str, Any]]:
    """Per formula and point the recovered scores, with their intervals.

    Args:
        table: a row per completion.
        run: the run file.
        ends: as ``ends_of`` says.

    Returns:
        Columns of ``points``; none where a score or an end is not there yet.
    """
    from ..scoring.intervals import share

    found: dict[tuple[str, int], dict[str, Any]] = {}
    for name, (start, end) in ends.items():
        of = (run.score or {})[name].recovered
        if of not in table:
            continue
        known = table.dropna(subset=[of])
        values: dict[tuple[str, int], Mapping[object, Sequence[float]]] = {
            (str(formula), int(point)): {item: list(one[of]) for item, one in some.groupby("id")}
            for (formula, point), some in known.groupby(["formula", "point"])
        }
        if start not in values or end not in values:
            continue
        for place, mine in values.items():
            said = share(mine, values[start], values[end])
            columns = {name: said.mean, f"{name}_low": said.low, f"{name}_high": said.high}
            found.setdefault(place, {}).update(columns, **{f"{name}_n": said.n})
    return found
