"""The run file's tables: the means of ``results.points`` in rows and columns.

A cell is one point; a table with several points in a cell is refused before anything is decoded.
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

    from ..inputs.expand import Setting

Label = str | float | None  # a formula, a value, or None where a point does not depend on a name
Labels = tuple[Label, ...]
PointLabels = Mapping[str, Label]  # a point: its formula and the values of swept names


@dataclass(frozen=True)
class Cell:
    """A mean, and its 95 % interval where it has one."""

    mean: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        mean = f"{self.mean:.2f}"
        return mean if self.low is None else f"{mean} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class ResultTable:
    """A table with its values."""

    name: str  # its key in the run file
    over: tuple[str, ...]  # the names that label its rows
    heads: tuple[str, ...]  # of its columns
    rows: tuple[tuple[Labels, tuple[Cell | None, ...]], ...]  # None where there is no such point

    def lines(self) -> list[list[str]]:
        """Its rows as text."""
        return [
            [*map(label_text, labels), *(str(cell or "") for cell in cells)]
            for labels, cells in self.rows
        ]


def _cells(
    name: str, table: Table, points: Sequence[PointLabels]
) -> dict[tuple[Labels, Labels], int]:
    """The index of the point in each cell, by the labels of its row and its column.

    Raises:
        RunFileError: a cell has several points.
    """
    cells: dict[tuple[Labels, Labels], int] = {}
    for number, point in enumerate(points):
        if table.formulas and point[FORMULA] not in table.formulas:
            continue
        if any(point.get(key) not in (None, value) for key, value in table.at.items()):
            continue
        row, column = (tuple(map(point.get, over)) for over in (table.rows, table.columns))
        other = points[cells.setdefault((row, column), number)]
        if other is not point:
            apart = [key for key in point if point[key] != other.get(key)]
            cure = " or ".join(f"{key} in rows, columns or at" for key in apart)
            problem = f"tables.{name}: several points of {point[FORMULA]} are in one cell"
            raise RunFileError(f"{problem}; name {cure}")
    return cells


def check_tables(run: RunFile, settings: Sequence[Setting]) -> None:
    """Refuse tables with several points in a cell.

    Raises:
        RunFileError: names the table, and what tells its points apart.
    """
    points: list[PointLabels] = [
        {FORMULA: setting.name, **point} for setting in settings for point in setting.points
    ]
    for name, table in run.tables.items():
        _cells(name, table, points)


def tables_of(run: RunFile, points: DataFrame) -> list[ResultTable]:
    """The run's tables over the points that it has so far."""
    rows = points.to_dict("records")
    labels = [
        {FORMULA: row[FORMULA]}
        | {k.removeprefix("param_"): v for k, v in row.items() if k.startswith("param_") and v == v}
        for row in rows
    ]
    return [
        _result_table(name, table, table.formulas or list(run.named), rows, labels)
        for name, table in run.tables.items()
    ]


def _result_table(
    name: str, table: Table, order: Sequence[str], rows: list[Any], points: Sequence[PointLabels]
) -> ResultTable:
    cells = _cells(name, table, points)

    def rank(labels: Labels) -> list[tuple[bool, float]]:
        """Formulas in the order of their declaration, values by size; None comes first."""
        numbers = [order.index(label) if isinstance(label, str) else label for label in labels]
        return [(number is not None, number or 0) for number in numbers]

    down = sorted({row for row, _ in cells}, key=rank)
    across = sorted({column for _, column in cells}, key=rank)
    columns = [(value, labels) for value in table.values for labels in across]
    heads = []
    for value, labels in columns:
        pairs = zip(table.columns, labels, strict=True)
        heads.append(", ".join([value, *(f"{key} = {label_text(label)}" for key, label in pairs)]))
    lines = [
        (row, tuple(
            _cell(rows[cells[row, column]], value) if (row, column) in cells else None
            for value, column in columns
        ))
        for row in down
    ]  # fmt: skip
    return ResultTable(name, tuple(table.rows), tuple(heads), tuple(lines))


def _cell(row: Mapping[str, Any], value: str) -> Cell | None:
    mean, low, high = (row.get(key) for key in (value, f"{value}_low", f"{value}_high"))
    if mean is None or not math.isfinite(mean):
        return None
    return Cell(float(mean), low, high)


def label_text(label: Label) -> str:
    """A label as text.

    >>> [label_text(label) for label in ("base", 0.5, 10.0, None)]
    ['base', '0.5', '10', '-']
    """
    if label is None:
        return "-"
    return label if isinstance(label, str) else f"{label:g}"


def markdown(tables: Iterable[ResultTable]) -> str:
    """Tables as Markdown."""
    sections = []
    for table in tables:
        rule = ["---"] * len(table.over) + ["--:"] * len(table.heads)
        lines = [[*table.over, *table.heads], rule, *table.lines()]
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        sections.append(f"## {table.name}\n\n{text}\n")
    return "\n".join(sections)
