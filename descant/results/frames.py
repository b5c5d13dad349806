"""A run's results as tables, from the lines of its folder, also while the run goes on.

``completions.jsonl`` and ``scores.jsonl`` hold everything; the other files are made from them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import reading, replace, written
from ..extras import require
from ..inputs.expand import KEY, Setting, key_of, settings_of
from ..inputs.runfile import RunFile, RunFileError
from ..inputs.sections import GRID, HELD_OUT
from .effects import effects_table, reference_of
from .folder import COMPLETIONS, META, SCORES, Journal, Record, resolved_run, scores_by_key
from .front import front_of
from .lock import PAGES, WAIT, writing
from .recovered import by_prompt, gap_ends, interval_columns, recovered
from .tables import markdown, tables_of

if TYPE_CHECKING:
    from pandas import DataFrame

_COLUMNS = ("id", "sample", "prompt", "text", "tokens", "finish_reason", "elapsed")


@dataclass(frozen=True)
class Results:
    """A run's results.

    Attributes:
        run: the run file.
        meta: versions, device, revision, seconds, tokens, plans.
        table: a row per completion.
        points: a row per formula and point: for each score its mean, ``_low``, ``_high`` (95 %
            bootstrap intervals over prompts) and ``_n``; seconds and tokens per second.
        front: the content of ``front.json``.
        effects: a row per formula, point and score: how much larger it is than the reference's.
    """

    run: RunFile
    meta: dict[str, Any]
    table: DataFrame
    points: DataFrame
    front: dict[str, Any]
    effects: DataFrame

    def _repr_html_(self) -> str:
        """The points, for a notebook."""
        return str(self.points._repr_html_())


def load(folder: str | Path) -> Results:
    """Read a run's folder.

    Raises:
        RunFileError: it is not one, or pandas is missing.
    """
    require("a table", "pandas", "pyarrow")
    folder = Path(folder)
    run, meta_file = resolved_run(folder), folder / META
    if not (folder / f"{COMPLETIONS}.jsonl").is_file():
        raise RunFileError(f"{folder} holds no run: there is no {COMPLETIONS}.jsonl")
    meta: dict[str, Any] = {}
    if meta_file.is_file():
        try:
            with reading(meta_file):
                meta = json.loads(meta_file.read_text(encoding="utf-8"))
        except ValueError:
            raise RunFileError(f"{meta_file} is not JSON; remove it") from None
    table = table_of(Journal(folder, COMPLETIONS).records(), Journal(folder, SCORES).records())
    settings = settings_of(run) if run.score else []
    points = points_table(table, recovered(table, run, gap_ends(run, settings)))
    front = _front(run, settings, points)
    counts = {setting.name: len(setting.points) for setting in settings}
    effects = effects_table(table, run, reference_of(run, counts)) if counts else table[:0]
    return Results(run, meta, table, points, front, effects)


def write(results: Results, folder: Path) -> list[Path]:
    """Write the tables, and return the files: ``results.csv``, ``results.parquet``, ``points.csv``,
    ``front.json``; ``effects.csv`` of several points; ``tables.md`` of a run file with tables."""
    names = ("results.csv", "results.parquet", "points.csv", "front.json")
    files = [folder / name for name in names]
    table = results.table.copy()
    table["prompt"] = [
        prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
        for prompt in table["prompt"]
    ]
    if table["id"].map(type).nunique() > 1:
        table["id"] = table["id"].map(str)  # a column has one type
    with writing(folder / PAGES, WAIT):
        with written(files[0]) as partial:
            table.to_csv(partial, index=False)
        with written(files[1]) as partial:
            table.to_parquet(partial, index=False)
        with written(files[2]) as partial:
            results.points.to_csv(partial, index=False)
        replace(files[3], json.dumps(results.front, indent=1))
        if len(results.effects):
            with written(folder / "effects.csv") as partial:
                results.effects.to_csv(partial, index=False)
            files.append(folder / "effects.csv")
        if results.run.tables:
            replace(folder / "tables.md", markdown(tables_of(results.run, results.points)))
            files.append(folder / "tables.md")
    return files


def table_of(completions: Iterable[Record], scores: Iterable[Record]) -> DataFrame:
    """One row per completion, in the order of formulas, points, prompts and samples."""
    import pandas

    values = scores_by_key(scores)
    rows = [
        {name: record[name] for name in (*KEY, *_COLUMNS) if name != "tokens"}
        | {"tokens": len(record["token_ids"])}
        | {f"param_{name}": value for name, value in record.get("params", {}).items()}
        | values.get(key_of(record), {})
        for record in completions
    ]
    rows.sort(key=lambda row: (row["formula"], row["point"], isinstance(row["id"], str),
                               row["id"], row["sample"]))  # fmt: skip
    table = pandas.DataFrame(rows)
    params, scored = columns_of(table)
    return table[["formula", "point", *params, *_COLUMNS, *scored]]


def points_table(table: DataFrame, more: Mapping[tuple[str, int], Any]) -> DataFrame:
    """One row per formula and point; ``more`` has further columns per point."""
    import pandas

    from ..scoring.intervals import interval

    params, scores = columns_of(table)
    rows = []
    for (formula, point), own in table.groupby(["formula", "point"], sort=True):
        row = {"formula": formula, "point": point}
        row |= {name: own[name].iloc[0] for name in params} | {"n": len(own)}
        for name in scores:
            row |= interval_columns(name, interval(by_prompt(own, name)))
        row |= more.get((formula, point), {})
        elapsed = float(own["elapsed"].sum())
        row["tokens"] = int(own["tokens"].sum())
        row["seconds"] = elapsed / len(own)
        row["tokens_per_second"] = row["tokens"] / elapsed if elapsed else float("nan")
        rows.append(row)
    return pandas.DataFrame(rows)


def columns_of(table: DataFrame) -> tuple[list[str], list[str]]:
    """A table's parameters and its scores."""
    known = {*KEY, *_COLUMNS}
    params = [name for name in table.columns if name.startswith("param_")]
    return params, [name for name in table.columns if name not in known and name not in params]


def _front(run: RunFile, settings: Sequence[Setting], points: DataFrame) -> dict[str, Any]:
    names = [name.removeprefix("-") for name in run.objectives]
    if not names or any(name not in points for name in names):
        return {"objectives": run.objectives, "formulas": {}}
    known = points.dropna(subset=names)
    means = {
        formula: {int(row["point"]): [float(row[n]) for n in names] for _, row in own.iterrows()}
        for formula, own in known.groupby("formula")
    }
    index = {setting.name: setting.point_index for setting in settings}
    names = [*index, GRID] if HELD_OUT in means or GRID in means else [*index]
    return front_of(run, {name: means[name] for name in names if name in means}, index)
