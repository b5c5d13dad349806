"""``descant methods`` and ``descant export``: a run's folder for a paper, and for a tracker.

It must stay light: a shell that completes a command imports it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument

from .options import File, Word, option
from .results.exports import Text, Tracker
from .show.terminal import Screen

_console = Screen()


def methods(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="A run's, or a sweep's.")],
    format_: Annotated[Text, option("How it is written.", "", "--format")] = Text.MARKDOWN,
    output: Annotated[File, option("A file for it.", "the screen")] = None,
) -> None:
    """The method section of a run: formula, models, data, settings, and whom to cite."""
    from .disk import replace
    from .methods import section

    text = section(folder, as_latex=format_ is Text.LATEX)
    if output is None:
        _console.write(text)
        return
    replace(output, text)
    _console.print(str(output))


def export_to_tracker(
    folder: Annotated[Path, Argument(metavar="FOLDER", help="A run's, or a sweep's.")],
    to: Annotated[Tracker, option("The tracker.", "", "--to")],
    project: Annotated[Word, option("Its project; in MLflow, the experiment.", "descant")] = None,
    offline: Annotated[
        bool, option("To no server: into FOLDER itself, or trackio's.", "", "--offline")
    ] = False,
) -> None:
    """A run in an experiment tracker: configuration, means, tables and pictures."""
    from .tracking import export as export_run

    _console.print(export_run(folder, to, project=project, offline=offline))
