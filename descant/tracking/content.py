"""What a tracker gets of a run's folder: a run for each point, and one for all of them together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..report import write as report
from ..results.effects import point_text
from ..results.folder import META, RESOLVED
from ..results.frames import Results, load
from ..results.frames import write as write_tables

if TYPE_CHECKING:
    from pandas import DataFrame

_FACTS = ("seed", "device", "dtype", "git", "descant", "torch", "transformers", "started")
_ROWS = 10_000  # of a table that a tracker shows: W&B's own limit


@dataclass(frozen=True)
class TrackedRun:
    """One run of a tracker.

    Attributes:
        name: a point, ``arms:3``; or the folder's name.
        id: a hash of the run and the point: exported again, it is the same run.
        config: nested; the declared models, the settings, and where they come from.
        metrics: of a point, its means, intervals and cost.
    """

    name: str
    id: str
    config: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A folder as trackers see it.

    Attributes:
        project: what the runs belong to.
        group: the folder's name, which all of them share.
        together: the run that has the tables, the pictures and the files.
        points: a run for each point.
        tables: what is shown as tables, by name.
        pictures: PNG files.
        files: the resolved run file, the metadata and the report.
    """

    project: str
    group: str
    together: TrackedRun
    points: tuple[TrackedRun, ...]
    tables: Mapping[str, DataFrame]
    pictures: tuple[Path, ...]
    files: tuple[Path, ...]


def experiment_of(folder: Path, project: str | None) -> Experiment:
    """Read a folder; its tables, report and pictures are written first.

    Raises:
        RunFileError: the folder holds no run, or a package is missing that tables need.
    """
    results, group = load(folder), folder.resolve().name
    made = [*write_tables(results, folder), *report(results, folder)]
    config = _config(results)
    identity = json.dumps([group, config.get("started"), config["run"]], sort_keys=True)
    tables = {"points": results.points, "effects": results.effects, "completions": results.table}
    tables["completions"] = _as_text(results.table).head(_ROWS)
    return Experiment(
        project=project or "descant",
        group=group,
        together=TrackedRun(group, _hash(identity, ""), config),
        points=tuple(_points(results, config, identity)),
        tables={name: table for name, table in tables.items() if len(table)},
        pictures=tuple(file for file in made if file.suffix == ".png"),
        files=tuple(
            file
            for file in (folder / RESOLVED, folder / META, folder / "report.html")
            if file.is_file()
        ),
    )


def _config(results: Results) -> dict[str, Any]:
    """The run file, and what was recorded of where it ran and what it read."""
    run = results.run.model_dump(mode="json", exclude_defaults=True)
    run["formulas"] = dict(results.run.named)
    run.pop("formula", None)
    facts = {name: results.meta[name] for name in _FACTS if results.meta.get(name) is not None}
    origins = {
        "model_origins": results.meta.get("models"), "data_origin": results.meta.get("data"),
    }  # fmt: skip
    return {"run": run, **facts, **{name: value for name, value in origins.items() if value}}


def _points(results: Results, config: dict[str, Any], identity: str) -> list[TrackedRun]:
    found = []
    for row in results.points.to_dict("records"):
        name = point_text(row["formula"], row["point"])
        params = {
            key.removeprefix("param_"): float(value) for key, value in row.items()
            if key.startswith("param_") and value == value
        }  # fmt: skip
        metrics = {
            key: float(value) for key, value in row.items()
            if key not in ("formula", "point") and not key.startswith("param_") and value == value
        }  # fmt: skip
        of = {"formula_name": row["formula"], "point": int(row["point"]), "params": params}
        of["formula"] = config["run"]["formulas"][row["formula"]]
        found.append(TrackedRun(name, _hash(identity, name), {**of, **config}, metrics))
    return found


def _as_text(table: DataFrame) -> DataFrame:
    """The completions with prompts and ids as texts, so that a column has one type."""
    table = table.copy()
    for name in ("prompt", "id"):
        table[name] = [
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for value in table[name].tolist()
        ]
    return table


def _hash(identity: str, point: str) -> str:
    return hashlib.blake2b(f"{identity}{point}".encode(), digest_size=8).hexdigest()


def flat(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A nested configuration by dotted keys.

    >>> flat({"run": {"models": {"base": {"path": "x"}}}, "seed": 0})
    {'run.models.base.path': 'x', 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        dotted = f"{path}.{key}" if path else str(key)
        found |= flat(value, dotted) if isinstance(value, Mapping) and value else {dotted: value}
    return found
