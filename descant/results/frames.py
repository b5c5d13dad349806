"""A run's results: what its folder says, as tables. They can be read while the run goes on.

Tables are made from ``completions.jsonl`` and ``scores.jsonl`` alone; the other files are copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..inputs.runfile import RunFile, RunFileError
from ..runs.folder import COMPLETIONS, META, SCORES, Journal, resolved_run
from .front import front_of
from .recovered import ends_of, recovered
from .tables import markdown, tables_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..runs.expand import Setting

KEY = ["formula", "point", "id", "sample"]


@dataclass(frozen=True)
class Results:
    """A run's results.

    Attributes:
        run: the run file.
        meta: versions, device, revision, seconds, tokens, plans.
        table: a row per completion.
        points: a row per formula and point: for each score its mean, ``_low``, ``_high`` (95 %
            bootstrap intervals over prompts) and ``_n``; seconds and tokens per second.
        front: what ``front.json`` says.
    """

    run: RunFile
    meta: dict[str, Any]
    table: DataFrame
    points: DataFrame
    front: dict[str, Any]


def load(folder: str | Path) -> Results:
    """Read a run's folder.

    Raises:
        RunFileError: it is not one, or pandas is missing.
    """
    _pandas()
    place = Path(folder)
    run = resolved_run(place)
    if not (place / f"{COMPLETIONS}.jsonl").is_file():
        raise RunFileError(f"{place} holds no run: there is no {COMPLETIONS}.jsonl")
    meta: dict[str, Any] = {}
    if (place / META).is_file():
        try:
            meta = json.loads((place / META).read_text(encoding="utf-8"))
        except ValueError:
            raise RunFileError(f"{place / META} is not JSON; remove it") from None
    from ..runs.expand import settings_of

    table = table_of(Journal(place, COMPLETIONS).records(), Journal(place, SCORES).records())
    share = any(score.recovered for score in (run.score or {}).values())
    settings = settings_of(run) if share or run.objectives else []
    ends = ends_of(run, settings) if share else {}
    points = points_table(table, recovered(table, run, ends))
    return Results(run, meta, table, points, _front(run, settings, points))


def write(results: Results, folder: Path) -> list[Path]:
    """Write ``results.csv``, ``results.parquet``, ``points.csv``, ``front.json``, ``tables.md``."""
    files = [folder / f"results.{kind}" for kind in ("csv", "parquet")]
    files += [folder / "points.csv", folder / "front.json"]
    table = results.table.copy()
    table["prompt"] = [_text(prompt) for prompt in table["prompt"]]
    if table["id"].map(type).nunique() > 1:
        table["id"] = table["id"].map(str)  # a column has one type
    table.to_csv(files[0], index=False)
    table.to_parquet(files[1], index=False)
    results.points.to_csv(files[2], index=False)
    files[3].write_text(json.dumps(results.front, indent=1), encoding="utf-8")
    if results.run.tables:
        files.append(folder / "tables.md")
        files[4].write_text(markdown(tables_of(results.run, results.points)), encoding="utf-8")
    return files


def table_of(completions: Iterable[dict[str, Any]], scores: Iterable[dict[str, Any]]) -> DataFrame:
    """One row per completion, in the order of formulas, points, prompts and samples.

    Lines of ``descant run``, which have no formula and no point, are those of ``formula``, 0.
    """
    said: dict[tuple[Any, ...], dict[str, float]] = {}
    for line in scores:
        said.setdefault(tuple(line[part] for part in KEY), {}).update(line["scores"])
    rows = []
    for record in completions:
        full = {"formula": "formula", "point": 0, **record}
        params = full.get("params", {}) if "schema" in record else {}
        rows.append(
            {part: full[part] for part in ("formula", "point")}
            | {f"param_{name}": value for name, value in params.items()}
            | {part: full[part] for part in ("id", "sample", "prompt", "text")}
            | {"tokens": len(full["token_ids"])}
            | {part: full[part] for part in ("finish_reason", "elapsed")}
            | said.get(tuple(full[part] for part in KEY), {})
        )
    rows.sort(key=lambda row: (row["formula"], row["point"], isinstance(row["id"], str),
                               row["id"], row["sample"]))  # fmt: skip
    return _in_order(_pandas().DataFrame(rows))


def points_table(
    table: DataFrame, more: Mapping[tuple[str, int], Mapping[str, Any]] | None = None
) -> DataFrame:
    """One row per formula and point, with more columns of its own."""
    from ..scoring.intervals import interval

    params, scores = columns_of(table)
    rows = []
    for (formula, point), some in table.groupby(["formula", "point"], sort=True):
        row = {"formula": formula, "point": point}
        row |= {name: some[name].iloc[0] for name in params} | {"n": len(some)}
        for name in scores:
            known = some.dropna(subset=[name])
            values = {item: list(one[name]) for item, one in known.groupby("id")}
            found = interval(values)
            row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
            row |= {f"{name}_n": found.n}
        row |= (more or {}).get((formula, point), {})
        elapsed = float(some["elapsed"].sum())
        row["tokens"] = int(some["tokens"].sum())
        row["seconds"] = elapsed / len(some)
        row["tokens_per_second"] = row["tokens"] / elapsed if elapsed else float("nan")
        rows.append(row)
    return _pandas().DataFrame(rows)


def columns_of(table: DataFrame) -> tuple[list[str], list[str]]:
    """A table's parameters and its scores."""
    known = {*KEY, "prompt", "text", "tokens", "finish_reason", "elapsed"}
    params = [name for name in table.columns if name.startswith("param_")]
    return params, [name for name in table.columns if name not in known and name not in params]


def _in_order(table: DataFrame) -> DataFrame:
    params, scores = columns_of(table)
    middle = ["id", "sample", "prompt", "text", "tokens", "finish_reason", "elapsed"]
    return table[["formula", "point", *params, *middle, *scores]]


def _front(run: RunFile, settings: Sequence[Setting], points: DataFrame) -> dict[str, Any]:
    names = [name.removeprefix("-") for name in run.objectives]
    if not names or any(name not in points for name in names):
        return {"objectives": run.objectives, "formulas": {}}
    known = points.dropna(subset=names)
    means = {
        formula: {int(row["point"]): [float(row[n]) for n in names] for _, row in some.iterrows()}
        for formula, some in known.groupby("formula")
    }
    of = {setting.name: setting.of for setting in settings}
    found: dict[str, Any] = front_of(run, {name: means[name] for name in of if name in means}, of)
    return found


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)


def _pandas() -> Any:
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ImportError:
        raise RunFileError(
            'tables need pandas and pyarrow: pip install "descant[report]"'
        ) from None
    return pandas
