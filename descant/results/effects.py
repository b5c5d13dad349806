"""Effect sizes of a sweep: every point's scores against those of one reference point.

They are the declared scores and the length, since a longer answer may be all that a reward sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..inputs.runfile import RunFile
from .recovered import by_prompt, point_named

if TYPE_CHECKING:
    from pandas import DataFrame

Reference = tuple[str, int]  # a formula and the number of its point
LENGTH = "length"
FIGURES = (
    "difference", "difference_low", "difference_high", "d_z",
    "win_rate", "win_rate_low", "win_rate_high", "p", "p_holm", "prompts",
)  # the columns of ``Effect.figures``  # fmt: skip
NOTE = (
    "differences of means over prompts, with paired 95 % bootstrap intervals; p of a sign-flip "
    "test, and by Holm's procedure over all points, for each score"
)


def reference_of(run: RunFile, points: Mapping[str, int]) -> Reference:
    """The point that the others are set against, from how many points each formula has.

    It is what ``effects: {against: …}`` names; else the formula called ``base``, else the first
    formula, at its first point.

    Raises:
        RunFileError: what is named is several points, or none.
    """
    against = run.effects.against
    if against is not None:
        return point_named(against, points, "effects.against")
    return ("base" if "base" in points else next(iter(points))), 0


def effects_table(table: DataFrame, run: RunFile, reference: Reference) -> DataFrame:
    """One row per formula, point and score, against the reference's.

    Columns: ``formula``, ``point``, ``score``, ``against``, and ``Effect.figures``. There are no
    rows while the reference has no scores.

    Args:
        table: a row per completion.
        run: the run file.
        reference: the formula and the point that the others are set against.
    """
    import pandas

    from ..scoring.effects import effects

    order = {name: number for number, name in enumerate(run.named)}
    rows: list[dict[str, Any]] = []
    for score in scores_of(run):
        if score not in table:
            continue
        groups = table.dropna(subset=[score]).groupby(["formula", "point"])
        values = {(str(f), int(point)): by_prompt(own, score) for (f, point), own in groups}
        if (theirs := values.pop(reference, None)) is None:
            continue
        for (formula, point), effect in effects(values, theirs).items():
            row = {"formula": formula, "point": point, "score": score}
            rows.append({**row, "against": point_text(*reference), **effect.figures})
    rows.sort(key=lambda row: (order.get(row["formula"], len(order)), row["point"]))
    return pandas.DataFrame(rows)


def scores_of(run: RunFile) -> list[str]:
    """The scores that are compared: those of answers that the run file declares, and the length."""
    declared = [name for name, score in (run.score or {}).items() if not score.recovered]
    return [*declared, LENGTH] if declared else []


def point_text(formula: str, point: int) -> str:
    """A point as run files name it: ``arms:3``."""
    return f"{formula}:{point}"
