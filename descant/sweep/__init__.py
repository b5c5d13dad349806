"""``descant sweep``: every formula at every point over every prompt, decoded and scored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..extras import MissingExtra
from ..inputs.expand import settings_of
from ..inputs.runfile import RunFile
from .source import Source
from .work import sweep

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["settings_of", "sweep", "swept"]


def swept(run: RunFile, folder: Path, console: Console, source: Source | None = None) -> None:
    """Sweep, then write and show the tables; a plain install prints what tables need.

    ``source`` decodes and scores; left out, this process does.

    Raises:
        RunFileError, FormulaError, ModelError: as ``sweep``.
    """
    if not sweep(run, folder, source):
        return
    try:
        from ..report import why_no_picture
        from ..report import write as report
        from ..results.frames import load, write

        results = load(folder)
        files = [*write(results, folder), *report(results, folder)]
    except MissingExtra as error:
        console.print(f"decoded and scored into {folder}; {error}")
        return
    from ..results.tables import tables_of
    from .shown import cost_shown, effects_shown, fronts_shown, points_shown, table_shown

    console.print(points_shown(results))
    for table in tables_of(results.run, results.points):
        console.print(table_shown(table))
    if (fronts := fronts_shown(results)) is not None:
        console.print(fronts)
    if (effects := effects_shown(results)) is not None:
        console.print(effects)
    console.print(cost_shown(results))
    if why := why_no_picture(results):
        console.print(f"scores are not drawn over parameters: {why}")
    console.print("written: " + ", ".join(str(file) for file in files))
