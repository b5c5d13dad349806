"""Run files: a formula, its models and what to do with them, as data.

Reading one executes nothing: YAML is read by the safe loader, values are validated, and unknown
keys are named with a suggestion.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from .grid import points_of
from .models.spec import ModelSpec, explain
from .sections import COSTS, FORMULA, FREE, Data, Front, Generate, Score, Strict, Table

__all__ = [
    "Data",
    "Front",
    "Generate",
    "RunFile",
    "RunFileError",
    "Score",
    "Table",
    "load_yaml",
    "read_run_file",
    "validated",
]
TEMPERATURE = "temperature"  # of generate: the one name that may be swept and is no parameter


class RunFileError(ValueError):
    """A run file that cannot be read, or that says something it may not."""


class RunFile(Strict):
    """A run file. From ``sweep`` on, what ``descant sweep`` reads."""

    formula: str = ""
    formulas: dict[str, str] = Field(default_factory=dict)
    models: dict[str, ModelSpec]
    params: dict[str, float] = Field(default_factory=dict)
    prompts: dict[str, str] = Field(default_factory=dict)
    dtype: str | None = None
    device: str | None = None
    generate: Generate = Generate()
    data: Data | None = None
    sweep: dict[str, Any] | list[dict[str, Any]] | None = None
    merge: dict[str, str] = Field(default_factory=dict)
    score: dict[str, Score] | None = None
    front: Front = Front()
    tables: dict[str, Table] = Field(default_factory=dict)
    output: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        """``base: allenai/tulu-2-7b`` is short for ``base: {path: …}``; so are scores."""
        for key, short in (("models", "path"), ("score", "reward")):
            if isinstance(value, dict) and isinstance(value.get(key), dict):
                long = {k: {short: v} if isinstance(v, str) else v for k, v in value[key].items()}
                value = {**value, key: long}
        return value

    @model_validator(mode="after")
    def _agree(self) -> RunFile:
        if bool(self.formula) == bool(self.formulas):
            raise ValueError("give a formula, or formulas: {name: formula, …}")
        for point in points_of(self.sweep)[:1] if self.sweep else ():
            for name in point:
                if (name == TEMPERATURE) == (name in self.params):
                    raise ValueError(_swept(name, self.params))
        for name, score in (self.score or {}).items():
            _check_score(f"score.{name}", score, self)
        for name, table in self.tables.items():
            _check_table(f"tables.{name}", table, self)
        if both := set(self.merge) & set(self.models):
            raise ValueError(f"{', '.join(sorted(both))} is declared under models and under merge")
        if unknown := {o.removeprefix("-") for o in self.objectives} - set(self.score or ()):
            raise ValueError(f"front.objectives: no score is named {', '.join(sorted(unknown))}")
        return self

    @property
    def named(self) -> dict[str, str]:
        """Every formula by its name; the only one, where it has none, is ``formula``."""
        return self.formulas or {"formula": self.formula}

    @property
    def objectives(self) -> list[str]:
        """What the front is over; the smaller the better where there is a minus."""
        rewards = [name for name, score in (self.score or {}).items() if score.reward]
        return self.front.objectives or (rewards if len(rewards) in (2, 3) else [])


def _known(where: str, what: str, names: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that are not there."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            cure = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"{where} names {name}, which is no {what}; {cure}")


def _check_score(where: str, score: Score, run: RunFile) -> None:
    if score.model:
        _known(where, "model", [score.model], [*run.models, *run.merge])
    if score.recovered and score.between:
        plain = [name for name, one in (run.score or {}).items() if not one.recovered]
        _known(where, "score of answers", [score.recovered], [*plain, *FREE])
        ends = [end.partition(":")[0] for end in score.between]
        _known(f"{where}.between", "formula", ends, run.named)


def _check_table(where: str, table: Table, run: RunFile) -> None:
    swept = next(iter(points_of(run.sweep)), {}) if run.sweep else {}
    over = [*table.rows, *table.columns]
    _known(where, "formula or swept name", over, [FORMULA, *swept])
    _known(f"{where}.at", "swept name", table.at, swept)
    _known(f"{where}.values", "score", table.values, [*(run.score or {}), *FREE, *COSTS])
    _known(f"{where}.formulas", "formula", table.formulas, run.named)
    if twice := {name for name in over if [*over, *table.at].count(name) > 1}:
        raise ValueError(f"{where} names {', '.join(sorted(twice))} in two places")


def _swept(name: str, params: Mapping[str, float]) -> str:
    if name in params:
        return f"sweep.{name} is both a parameter and what generate takes; rename the parameter"
    near = difflib.get_close_matches(name, [*params, TEMPERATURE], n=1)
    cure = f"did you mean {near[0]}?" if near else f"declare it, params: {{{name}: 0.5}}"
    return f"sweep.{name} is no parameter; {cure}"


class _Loader(yaml.SafeLoader):
    """YAML as version 1.2 reads it: ``on`` is a word, and ``1e-3`` is a number."""


_NUMBER = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$"
)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if not tag.endswith((":bool", ":float"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def load_yaml(text: str) -> Any:
    """The content of a YAML document: data, and never an object.

    >>> load_yaml("{adapter: org/arm, on: base, weight: 1e-3}")
    {'adapter': 'org/arm', 'on': 'base', 'weight': 0.001}
    """
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def read_run_file(path: str | Path, overrides: Sequence[str] = ()) -> RunFile:
    """Read and validate a run file.

    Args:
        path: the file; models and data that exist beside it are found there.
        overrides: ``key=value`` each, as ``--set`` takes them: a parameter's name, or a dotted key.

    Raises:
        RunFileError: no such file, not YAML, or not a run file; says which key and what to write.
    """
    file = Path(path)
    if not file.is_file():
        raise RunFileError(f"there is no run file {file}")
    try:
        content = load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunFileError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RunFileError(
            f"{file} is not a run file: it must hold keys such as formula and models"
        )
    for override in overrides:
        _override(content, override)
    content = _with_environment(content, str(file))
    return _beside(file.parent, validated(content, str(file)))


def validated(content: Mapping[str, Any], where: str) -> RunFile:
    """A run file from its content.

    Raises:
        RunFileError: with one line per mistake.
    """
    try:
        return RunFile.model_validate(content)
    except ValidationError as error:
        raise RunFileError(f"{where}: {explain(error, RunFile)}") from None


_VARIABLE = re.compile(r"\$\{env:([A-Za-z_]\w*)(?:,([^}]*))?\}")


def _with_environment(value: Any, where: str) -> Any:
    """The content with ``${env:NAME}``, or ``${env:NAME,otherwise}``, replaced; no other way in."""
    if isinstance(value, dict):
        return {k: _with_environment(item, f"{where}, {k}") for k, item in value.items()}
    if isinstance(value, list):
        return [_with_environment(item, where) for item in value]
    if not isinstance(value, str):
        return value

    def said(found: re.Match[str]) -> str:
        name, otherwise = found.groups()
        if name not in os.environ and otherwise is None:
            raise RunFileError(
                f"{where}: the environment has no {name}; set it, or say ${{env:{name},otherwise}}"
            )
        return os.environ.get(name, otherwise or "")

    return _VARIABLE.sub(said, value)


def _override(content: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise RunFileError(f"--set {override}: write --set name=value")
    try:
        value = load_yaml(text)
    except yaml.YAMLError:
        raise RunFileError(f"--set {override}: {text!r} is not a value") from None
    params = content.get("params") or {}
    path = key.split(".")
    if path[0] in params and len(path) == 1:
        path = ["params", key]
    elif path[0] not in RunFile.model_fields:
        known = [*params, *RunFile.model_fields]
        near = difflib.get_close_matches(key, known, n=1)
        cure = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
        raise RunFileError(f"--set {override}: there is no parameter or key {key}{cure}")
    place = content
    for part in path[:-1]:
        nested = place.setdefault(part, {})
        if not isinstance(nested, dict):
            raise RunFileError(f"--set {override}: {part} holds no keys")
        place = nested
    place[path[-1]] = value


def _beside(folder: Path, run: RunFile) -> RunFile:
    """Relative paths that exist beside the run file are meant there."""

    def found(path: str | None) -> str | None:
        return str(folder / path) if path and (folder / path).exists() else path

    models = {
        name: spec.model_copy(update={"path": found(spec.path), "adapter": found(spec.adapter)})
        for name, spec in run.models.items()
    }
    changed: dict[str, Any] = {"models": models}
    if run.data:
        places = {"path": found(run.data.path), "name": found(run.data.name)}
        changed["data"] = run.data.model_copy(update=places)
    if run.score:
        changed["score"] = {
            name: score.model_copy(update={"coherence": found(score.coherence)})
            for name, score in run.score.items()
        }
    return run.model_copy(update=changed)
