"""``descant sweep``: every formula at every point over every prompt, scored, as one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..inputs.runfile import RunFile, RunFileError
from ..runs.expand import Row, Setting, settings_of
from .work import sweep

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Row", "Setting", "settings_of", "sweep", "swept"]


def swept(run: RunFile, folder: Path, console: Console) -> None:
    """Sweep, and write and show the tables; a plain install says what tables need.

    Raises:
        RunFileError, FormulaError, ModelError: as ``sweep``.
    """
    if not sweep(run, folder):
        return
    try:
        from ..report import write as report
        from ..results.frames import load, write

        results = load(folder)
        files = [*write(results, folder), *report(results, folder)]
    except RunFileError as error:
        if "descant[report]" not in str(error):
            raise
        console.print(f"decoded and scored into {folder}; {error}", markup=False)
        return
    from ..results.tables import tables_of
    from .shown import cost_shown, fronts_shown, pivot_shown, points_shown

    console.print(points_shown(results))
    for pivot in tables_of(results.run, results.points):
        console.print(pivot_shown(pivot))
    if (fronts := fronts_shown(results)) is not None:
        console.print(fronts)
    console.print(cost_shown(results), markup=False)
    console.print("written: " + ", ".join(str(file) for file in files), markup=False)
