"""``descant fit`` with ``objective: reward``: the search, its files, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...disk import replace
from ...extras import MissingExtra
from ...inputs.grid import Point
from ...inputs.runfile import TEMPERATURE, RunFile
from ...inputs.yaml import dump_yaml
from ...results.lock import PAGES, WAIT, writing
from .figures import write_convergence
from .in_folder import fit_in_folder
from .options import Options
from .outcome import Outcome
from .tables import as_dict, lines_of

if TYPE_CHECKING:
    from rich.console import Console

FITTED, RESULT = "fitted.yaml", "fit.json"
SOURCES = ("path", "adapter", "vector", "head")  # of a model, of which it has one


def fit_rewards(
    run: RunFile, options: Options, folder: Path, console: Console | None = None
) -> Outcome:
    """Maximise a run's rewards, and write what was found; the first process writes and prints.

    ``fitted.yaml`` is the run file with the values put in, ``fit.json`` the outcome; the report and
    its tables are a sweep's.

    Args:
        run: a run file with one formula, and neither points nor tables.
        options: of the search.
        folder: where everything is written.
        console: prints what was found.

    Raises:
        RunFileError, ArgumentError, FormulaError, ModelError: as ``fit_in_folder``.
    """
    outcome, first = fit_in_folder(run, options, folder)
    if not first:
        return outcome
    with writing(folder / PAGES, WAIT):
        replace(folder / FITTED, dump_yaml(fitted(run, outcome.params)))
        replace(folder / RESULT, json.dumps(as_dict(outcome), indent=1, ensure_ascii=False))
    files = [folder / FITTED, folder / RESULT]
    try:
        from ...report import write as report
        from ...results.frames import load, write

        results = load(folder)
        files += [*write(results, folder), *report(results, folder)]
        files += write_convergence(outcome, folder)
    except MissingExtra as error:
        if console is not None:
            console.print(f"fitted in {folder}; {error}")
    if console is not None:
        for line in lines_of(outcome):
            console.print(line, markup=False, highlight=False)
        console.print("written: " + ", ".join(map(str, files)))
    return outcome


def fitted(run: RunFile, params: Point) -> dict[str, Any]:
    """The content of the run file with values put in, and without the fit."""
    content = run.model_dump(mode="json", exclude_unset=True, exclude={"fit", "output"})
    content = {key: value for key, value in content.items() if value not in (None, {})}
    content["models"] = {
        name: {key: value for key, value in spec.items() if value is not None or key not in SOURCES}
        for name, spec in content["models"].items()
    }
    values = {name: value for name, value in params.items() if name != TEMPERATURE}
    content["params"] = {**run.params, **values}
    if TEMPERATURE in params:
        content["generate"] = {**content.get("generate", {}), TEMPERATURE: params[TEMPERATURE]}
    return content
