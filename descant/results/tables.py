"""Tables of a paper: means of points, with a row and a column for each of what they go over.

A cell is one point; several are refused before anything is decoded. It shows what
``results.points`` holds and works nothing out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..inputs.runfile import RunFile, RunFileError
from ..inputs.sections import FORMULA, Table

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..runs.expand import Setting

Label = str | float | None  # a formula, a number, or nothing where a point does not depend on it
Place = tuple[Label, ...]
Said = Mapping[str, Label]  # a point: its formula and the values of swept names


@dataclass(frozen=True)
class Cell:
    """A mean, and its 95 % interval where it has one."""

    mean: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        said = f"{self.mean:.2f}"
        return said if self.low is None else f"{said} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Pivot:
    """A table, ready to be shown.

    Attributes:
        name: its key in the run file.
        over: what its rows go over.
        heads: of its columns.
        rows: the labels of each row, and its cells; None where there is no such point.
    """

    name: str
    over: tuple[str, ...]
    heads: tuple[str, ...]
    rows: tuple[tuple[Place, tuple[Cell | None, ...]], ...]


def cells_of(name: str, table: Table, points: Sequence[Said]) -> dict[tuple[Place, Place], int]:
    """The number of the point in each cell, by its row and its column.

    Raises:
        RunFileError: a cell has several points.
    """
    found: dict[tuple[Place, Place], int] = {}
    for number, point in enumerate(points):
        if table.formulas and point[FORMULA] not in table.formulas:
            continue
        if any(point.get(key) not in (None, value) for key, value in table.at.items()):
            continue
        row, column = (tuple(map(point.get, over)) for over in (table.rows, table.columns))
        other = points[found.setdefault((row, column), number)]
        if other is not point:
            apart = [key for key in point if point[key] != other.get(key)]
            cure = " or ".join(f"{key} in rows, columns or at" for key in apart)
            problem = f"tables.{name}: several points of {point[FORMULA]} are in one cell"
            raise RunFileError(f"{problem}; name {cure}")
    return found


def check(run: RunFile, settings: Sequence[Setting]) -> None:
    """Refuse tables with several points in a cell, before there are any.

    Args:
        run: the run file.
        settings: of the sweep.
    """
    points: list[Said] = [
        {FORMULA: setting.name, **point} for setting in settings for point in setting.points
    ]
    for name, table in run.tables.items():
        cells_of(name, table, points)


def tables_of(run: RunFile, points: DataFrame) -> list[Pivot]:
    """The run's tables, as far as its points go."""
    rows = points.to_dict("records")
    said = [
        {FORMULA: row[FORMULA]}
        | {k.removeprefix("param_"): v for k, v in row.items() if k.startswith("param_") and v == v}
        for row in rows
    ]
    names = list(run.named)
    return [_pivot(name, table, names, rows, said) for name, table in run.tables.items()]


def _pivot(
    name: str, table: Table, names: Sequence[str], rows: Sequence[Any], said: Sequence[Said]
) -> Pivot:
    cells = cells_of(name, table, said)
    order = table.formulas or names

    def rank(place: Place) -> list[tuple[bool, float]]:
        """Formulas as they are declared, numbers by size; first what has none."""
        numbers = [order.index(one) if isinstance(one, str) else one for one in place]
        return [(number is not None, number or 0) for number in numbers]

    down = sorted({row for row, _ in cells}, key=rank)
    across = sorted({column for _, column in cells}, key=rank)
    columns = [(value, place) for value in table.values for place in across]
    heads = [
        ", ".join(
            [value, *(f"{k} = {name_of(v)}" for k, v in zip(table.columns, place, strict=True))]
        )
        for value, place in columns
    ]
    lines = []
    for place in down:
        numbers = [cells.get((place, column)) for _, column in columns]
        found = [
            None if number is None else _cell(rows[number], value)
            for number, (value, _) in zip(numbers, columns, strict=True)
        ]
        lines.append((place, tuple(found)))
    return Pivot(name, tuple(table.rows), tuple(heads), tuple(lines))


def _cell(row: Mapping[str, Any], value: str) -> Cell | None:
    mean, low, high = (row.get(key) for key in (value, f"{value}_low", f"{value}_high"))
    if mean is None or not math.isfinite(mean):
        return None
    if low is None or high is None:
        return Cell(float(mean))
    return Cell(float(mean), float(low), float(high))


def name_of(label: Label) -> str:
    """A label as text.

    >>> [name_of(label) for label in ("base", 0.5, 10.0, None)]
    ['base', '0.5', '10', '-']
    """
    if label is None:
        return "-"
    return label if isinstance(label, str) else f"{label:g}"


def markdown(pivots: Iterable[Pivot]) -> str:
    """Tables as Markdown."""
    found = []
    for pivot in pivots:
        heads = [*pivot.over, *pivot.heads]
        rule = ["---"] * len(pivot.over) + ["--:"] * len(pivot.heads)
        lines = [heads, rule]
        for place, cells in pivot.rows:
            lines.append([*map(name_of, place), *("" if c is None else str(c) for c in cells)])
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        found.append(f"## {pivot.name}\n\n{table}\n")
    return "\n".join(found)
