"""Run files: a formula, its models and what to do with them, as data. Nothing is executed."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from ..errors import ArgumentError, quoted
from ..formula import Names
from ..formula.words.signature import MOST
from ..grammar import did_you_mean, nearest
from ..models import Heads
from ..models.cache_config import CacheConfig
from ..models.checkpoint.spec import ModelSpec
from .constraints import schema_of, structured_outputs_of, with_files
from .fit_section import FitSection
from .grid import Point, points_of
from .merge import bases_of, with_brackets
from .sections import (
    COSTS,
    FORMULA,
    FREE,
    Data,
    Effects,
    Front,
    Generate,
    ScoreSpec,
    Strict,
    Table,
)
from .settings import FileKind, SettingsError, relative_to

__all__ = ["Data", "RunFile", "RunFileError", "read_run_file", "validated"]
COLUMNS = {  # of results; no score may have such a name
    *("formula", "point", "id", "sample", "prompt", "text", "finish_reason", "elapsed", "n"),
    *FREE,
    *COSTS,
}
_NAME = re.compile(r"[\w.+-]+")  # of a formula, which is part of file names
TEMPERATURE = "temperature"  # of generate; it may be swept without being a parameter


class RunFileError(SettingsError):
    """A run file that cannot be read or is not valid, or a run that fails by it."""


class RunFile(Strict):
    """A run file. ``descant sweep`` alone reads the keys from ``sweep`` on, but for ``merge``.

    ``descant fit`` reads ``fit``, and ``score`` and ``front``.

    ``capture``, ``enable_prefix_caching`` and ``gpu_memory_utilization`` are as ``compile`` takes
    them. With ``parallel: terms``, each process holds some of the models and all decode the same
    rows; without it, the processes of a sweep divide its prompts.
    """

    formula: str = ""
    formulas: dict[str, str] = Field(default_factory=dict)
    models: dict[str, ModelSpec]
    params: dict[str, FiniteFloat] = Field(default_factory=dict)
    prompts: dict[str, str] = Field(default_factory=dict)
    schemas: dict[str, Any] = Field(default_factory=dict)
    grammars: dict[str, str] = Field(default_factory=dict)
    dtype: str | None = None
    device: str | None = None
    capture: bool = True
    enable_prefix_caching: bool = True
    gpu_memory_utilization: float = 0.9
    parallel: Literal["terms"] | None = None
    generate: Generate = Generate()
    data: Data | None = None
    sweep: dict[str, Any] | list[dict[str, Any]] | None = None
    fit: FitSection | None = None
    merge: dict[str, str] = Field(default_factory=dict)
    score: dict[str, ScoreSpec] | None = None
    front: Front = Front()
    effects: Effects = Effects()
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
    def _check(self) -> RunFile:
        if bool(self.formula) == bool(self.formulas):
            raise ValueError("give a formula, or formulas: {name: formula, …}")
        _ = self.cache  # which checks its values
        for name in self.points[0]:
            if (name == TEMPERATURE) == (name in self.params):
                raise ValueError(_wrong_sweep(name, self.params))
        for temperature in {point[TEMPERATURE] for point in self.points if TEMPERATURE in point}:
            if not 0 <= temperature <= MOST:
                raise ValueError(f"sweep.temperature is {temperature}; it is from 0 to {MOST:g}")
        for name in self.formulas:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"formulas: {quoted(name)} is no name; use letters, digits, _ - . and +"
                )
        for name, score in (self.score or {}).items():
            _check_score(name, score, self)
        for name, table in self.tables.items():
            _check_table(f"tables.{name}", table, self)
        raw = self.generate.logprobs and self.generate.logprobs_mode != "processed_logprobs"
        if raw and self.has_kl:
            cure = "write logprobs_mode: processed_logprobs, or leave logprobs out"
            raise ValueError(f"a kl is of what was drawn from, and so are these logprobs; {cure}")
        if self.generate.sample_components:
            if self.has_kl:
                cure = "leave out sample_components, or the kl"
                raise ValueError(f"a kl is of the whole mixture, and one component is run; {cure}")
            if any(point.get(TEMPERATURE, 1) != 1 for point in self.points):
                raise ValueError("sweep.temperature: sample_components: true is for temperature 1")
        if twice := set(self.merge) & set(self.models):
            raise ValueError(f"{', '.join(sorted(twice))} is declared under models and under merge")
        bases_of(self.merge, self.models, self.params)
        if self.generate.draft is not None:  # a formula, too
            draft = self._in_brackets(self.generate.draft)
            self.generate = self.generate.model_copy(update={"draft": draft})
        self.schemas = {name: schema_of(name, value) for name, value in self.schemas.items()}
        declared = self.generate.structured_outputs, self.schemas, self.grammars
        if (form := structured_outputs_of(*declared)) is not None:
            self.generate = self.generate.model_copy(update={"structured_outputs": form})
        if unknown := {o.removeprefix("-") for o in self.objectives} - set(self.score or ()):
            raise ValueError(f"front.objectives: no score is named {', '.join(sorted(unknown))}")
        plain = sorted(name.removeprefix("-") for name in self.objectives)
        if self.front.reference is not None and sorted(self.front.reference) != plain:
            needed = ", ".join(plain) or "the objectives, of which there are none"
            raise ValueError(f"front.reference: give a number for each of {needed}")
        return self

    @property
    def cache(self) -> CacheConfig:
        """How caches are used."""
        return CacheConfig(self.enable_prefix_caching, self.gpu_memory_utilization)

    @property
    def texts(self) -> tuple[dict[str, str], dict[str, Any], dict[str, str]]:
        """What a formula may name besides models and parameters: prompts, schemas, grammars."""
        return self.prompts, self.schemas, self.grammars

    def names(self, params: Iterable[str] | None = None) -> Names:
        """The names that a formula may use; its parameters' in place of the run file's."""
        known = frozenset(self.params if params is None else params)
        prompts, *texts = self.texts
        return Names(frozenset(self.models), known, prompts, Heads(self.models), *texts)

    @property
    def named(self) -> dict[str, str]:
        """Every formula by its name, with its merged models in brackets.

        The only one, where it has no name, is ``formula``.
        """
        named = self.formulas or {"formula": self.formula}
        return {name: self._in_brackets(formula) for name, formula in named.items()}

    def _in_brackets(self, formula: str) -> str:
        """A formula with the sums of merged models in the brackets of their bases."""
        bases = bases_of(self.merge, self.models, self.params)
        merges = ((name, bases[name], written) for name, written in self.merge.items())
        return with_brackets(formula, tuple(merges))

    @property
    def points(self) -> list[Point]:
        """The points of the sweep; a single one, without values, where there is none."""
        return points_of(self.sweep) if self.sweep else [{}]

    @property
    def has_kl(self) -> bool:
        """Whether a score compares what was drawn from with another model."""
        return any(score.kl for score in (self.score or {}).values())

    @property
    def objectives(self) -> list[str]:
        """The scores of the front; one with a minus is minimised."""
        rewards = [name for name, score in (self.score or {}).items() if score.reward]
        return self.front.objectives or (rewards if len(rewards) in (2, 3) else [])


def _check_known(where: str, what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            cure = did_you_mean(name, known)
            raise ValueError(f"{where} names {name}, which is no {what}; {cure}")


def _check_score(name: str, score: ScoreSpec, run: RunFile) -> None:
    where = f"score.{name}"
    if name in COLUMNS or name.startswith("param_"):
        raise ValueError(f"{where}: results have such a column; choose another name")
    if score.model in run.merge:
        raise ValueError(f"{where}: {score.model} is another model at every point")
    if score.model:
        _check_known(where, "model", [score.model], run.models)
    if score.recovered and score.between:
        plain = [name for name, other in (run.score or {}).items() if not other.recovered]
        _check_known(where, "score of answers", [score.recovered], [*plain, *FREE])
        ends = [end.partition(":")[0] for end in score.between]
        _check_known(f"{where}.between", "formula", ends, run.named)


def _check_table(where: str, table: Table, run: RunFile) -> None:
    swept, over = run.points[0], [*table.rows, *table.columns]
    _check_known(where, "formula or swept name", over, [FORMULA, *swept])
    _check_known(f"{where}.at", "swept name", table.at, swept)
    _check_known(f"{where}.values", "score", table.values, [*(run.score or {}), *FREE, *COSTS])
    _check_known(f"{where}.formulas", "formula", table.formulas, run.named)
    if twice := {name for name in over if [*over, *table.at].count(name) > 1}:
        raise ValueError(f"{where} names {', '.join(sorted(twice))} in two places")


def _wrong_sweep(name: str, params: Mapping[str, float]) -> str:
    if name in params:
        return f"sweep.{name} is both a parameter and what generate takes; rename the parameter"
    near = nearest(name, [*params, TEMPERATURE])
    cure = f"did you mean {near}?" if near else f"declare it, params: {{{name}: 0.5}}"
    return f"sweep.{name} is no parameter; {cure}"


def read_run_file(path: str | Path, overrides: Sequence[str] = (), **keys: Any) -> RunFile:
    """Read and validate a run file.

    Args:
        path: the file; relative paths of models and data that exist next to it start there.
        overrides: ``key=value`` each, as ``--set`` takes them.
        keys: by their names, as options of the command line give them; None leaves the file's.

    Raises:
        RunFileError: no such file, not YAML, or not a run file; names the key and what to write.
    """
    file, content = Path(path), _KIND.read(path)
    for override in overrides:
        _KIND.override(content, override)
    content |= {key: value for key, value in keys.items() if value is not None}
    content = _with_environment(content, str(file))
    try:
        content = with_files(content, file.parent)
    except ArgumentError as error:
        raise RunFileError(f"{file}: {error}") from None
    return _with_paths(file.parent, validated(content, str(file)))


_KIND = FileKind(
    "run file", RunFile, ("formula", "models"), RunFileError,
    {"models.*": "path", "score.*": "reward"}, ("params", "parameter"),
)  # fmt: skip
validated = _KIND.validated
_PATHS = {
    "models": ("path", "adapter", "vector", "head"),
    "data": ("path", "name"), "score": ("coherence",),
}  # fmt: skip
_VARIABLE = re.compile(r"\$\{env:([A-Za-z_]\w*)(?:,([^}]*))?\}")


def _with_environment(value: Any, where: str) -> Any:
    """The content with ``${env:NAME}``, or ``${env:NAME,default}``, replaced."""
    if isinstance(value, dict):
        return {k: _with_environment(item, f"{where}, {k}") for k, item in value.items()}
    if isinstance(value, list):
        return [_with_environment(item, where) for item in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        name, default = match.groups()
        if name not in os.environ and default is None:
            cure = f"set it, or write ${{env:{name},default}}"
            raise RunFileError(f"{where}: the environment has no {name}; {cure}")
        return os.environ.get(name, default or "")

    *before, after = value.rpartition("}")  # no variable is after it, and to look takes long
    return _VARIABLE.sub(replacement, "".join(before)) + after


def _with_paths(folder: Path, run: RunFile) -> RunFile:
    """The run with relative paths that exist in a folder found there."""

    def resolved(section: Any, keys: Sequence[str]) -> Any:
        if isinstance(section, dict):
            return {name: resolved(value, keys) for name, value in section.items()}
        paths = {key: relative_to(folder, getattr(section, key)) for key in keys if section}
        return section and section.model_copy(update=paths)

    update = {k: resolved(getattr(run, k), keys) for k, keys in _PATHS.items()}
    if run.fit is not None:
        fitted = resolved(run.fit.data, _PATHS["data"])
        update["fit"] = run.fit.model_copy(update={"data": fitted})
    return run.model_copy(update=update)
