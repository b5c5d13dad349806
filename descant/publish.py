"""What is made of runs' folders: ``descant compare``, ``report``, ``methods`` and ``export``.

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


def compare(
    ours: Annotated[str, Argument(metavar="RUN_A[#FORMULA[:POINT]]")],
    theirs: Annotated[str, Argument(metavar="RUN_B[#FORMULA[:POINT]]")],
    by: Annotated[Word, option("A reward model, its name or a path; or an expression.")] = None,
    judge: Annotated[Word, option("An OpenAI-compatible judge.", metavar="openai:MODEL")] = None,
    base_url: Annotated[Word, option("The judge's server.", "OpenAI's")] = None,
    max_calls: Annotated[int | None, option("Of the judge, in all.", min=1)] = None,
    max_tokens: Annotated[
        int | None, option("Tokens that the judge reads and writes, in all.", min=1)
    ] = None,
    timeout: Annotated[float, option("Seconds for one verdict.", min=0.1)] = 60.0,
    cache: Annotated[File, option("A file that keeps verdicts.", "verdicts.jsonl in RUN_A")] = None,
    output: Annotated[File, option("A file for the verdict, as JSON.")] = None,
) -> None:
    """Which of two runs answers better: by a reward model or a judge, or by their scores.

    Without --by and --judge, every score that both have recorded is compared, and RUN_A may be
    several points.
    """
    from .compare.compare import compared
    from .compare.recorded import scores_compared

    if by is None and judge is None:
        scores_compared(_console.for_tables(), (ours, theirs), output)
        return
    compared(
        _console, (ours, theirs), by, judge, base_url=base_url, calls=max_calls, tokens=max_tokens,
        timeout=timeout, cache=cache, output=output,
    )  # fmt: skip


def report(folder: Annotated[Path, Argument(metavar="FOLDER", help="A sweep's.")]) -> None:
    """A sweep's folder as one HTML page and figures; while it runs, too."""
    from .report import write
    from .results import load

    for file in write(load(folder), folder):
        _console.print(str(file))
