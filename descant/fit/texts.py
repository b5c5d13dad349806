"""``descant fit`` by texts or preferences: the data, the fit, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import disk
from ..inputs.fit_section import FitData, FitSection
from ..inputs.prompts import read_rows
from ..inputs.runfile import RunFile, RunFileError
from ..inputs.yaml import dump_yaml
from ..results.folder import RESOLVED, resolved_run
from ..results.lock import writing
from ..runs.resume import differences, make_folder
from ..runs.run import compiled
from .report import write_report
from .rewards.command import FITTED, RESULT, fitted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..runtime.fit.result import Fit

SLICES = 15  # values along each parameter in the report


def fit_texts(run: RunFile, section: FitSection, folder: Path, console: Console) -> Fit:
    """Fit a run's formula to completions or pairs, and write what was found.

    Killed and started again, it reads only the texts that were not read yet.

    Raises:
        RunFileError: no data, a row without a completion, or another run's folder; and as
            ``Decoder.fit``.
    """
    prompts, completions = texts_of(run, section)
    make_folder(folder)
    with disk.resumable(), writing(folder):
        prepare(run, folder)
        seed = run.generate.seed if section.seed is None else section.seed
        fit = compiled(run).fit(
            prompts, completions, objective=section.objective, bounds=section.bounds,
            constraints=section.constraints, beta=section.beta, holdout=section.holdout,
            folds=section.folds, seed=seed, slices=SLICES, folder=folder,
            batch_size=run.generate.batch_size,
        )  # fmt: skip
        disk.replace(folder / FITTED, dump_yaml(fitted(run, fit.params)))
        disk.replace(folder / RESULT, json.dumps(fit.as_dict(), indent=1, ensure_ascii=False))
        files = [folder / FITTED, folder / RESULT, *write_report(fit, run.formula, folder)]
    console.print(table_of(fit))
    for line in lines_of(fit):
        console.print(line, markup=False, highlight=False)
    console.print("written: " + ", ".join(map(str, files)))
    return fit


def table_of(fit: Fit) -> Table:
    """The parameters and the terms of a fit, as a table."""
    from rich.table import Table

    table = Table("", "value", "standard error", "log-likelihood lost without", title="fit")
    for name, value in fit.params.items():
        table.add_row(name, f"{value:.4g}", _number(fit.stderr[name]), "")
    table.add_section()
    for row in fit.table:
        lost = f"{row['lost']:.1f}"
        table.add_row(row["term"], f"{row['coefficient']:.4g}", _number(row["stderr"]), lost)
    return table


def lines_of(fit: Fit) -> list[str]:
    """What else a reader wants to know."""
    unit = "pairs" if fit.accuracy else "texts"
    gained = f"{fit.start_loglikelihood:.1f} before, {fit.loglikelihood:.1f} after"
    lines = [f"log-likelihood of {fit.texts} {unit}, {fit.tokens} tokens: {gained}"]
    if fit.accuracy:
        lines.append("accuracy: {:.1%} before, {:.1%} after".format(*fit.accuracy))
    for name in ("loglikelihood", "perplexity", "accuracy"):
        if name in fit.holdout:
            before, after = fit.holdout[name]
            lines.append(f"held out, {name}: {before:.4g} before, {after:.4g} after")
    return lines + list(fit.notes)


def _number(value: float) -> str:
    return "at its bound" if value != value else f"{value:.2g}"


def prepare(run: RunFile, folder: Path) -> None:
    """Write the resolved run file, or check that the folder's own is the same."""
    resolved = run.model_dump(mode="json", exclude={"output"})
    if (folder / RESOLVED).is_file():
        before = resolved_run(folder).model_dump(mode="json", exclude={"output"})
        if changed := differences(before, resolved):
            cure = "give another output, or remove the folder to begin again"
            raise RunFileError(f"{folder} holds another run: {changed}; {cure}")
    disk.replace(folder / RESOLVED, dump_yaml(resolved))


def texts_of(run: RunFile, section: FitSection) -> tuple[list[Any], list[Any]]:
    """Prompts with their completions, or their pairs."""
    data = section.data
    if data is None and run.data is not None:
        data = FitData(**run.data.model_dump())
    if data is None:
        raise RunFileError("the run file has no data to fit; add fit: {data: {path: …}}")
    pairs = section.objective == "preference"
    columns = [data.chosen, data.rejected] if pairs else [data.completion]

    def texts(row: Any, where: str) -> Any:
        found = [_completion(row, column, where) for column in columns]
        return tuple(found) if pairs else found[0]

    rows = read_rows(data, texts)
    return [item.prompt for item, _ in rows], [text for _, text in rows]


def _completion(row: Any, column: str, where: str) -> Any:
    text = row.get(column) if isinstance(row, Mapping) else None
    is_ids = isinstance(text, list) and all(type(token) is int for token in text)
    if not text or not (isinstance(text, str) or is_ids):
        problem = f"{where}: {column} is no text" if text else f"{where} has no {column}"
        raise RunFileError(f"{problem}; a row to fit has a prompt and {column}")
    return text
