"""Run files: a formula, its models and what to do with them, as data.

Reading one executes nothing: YAML is read by the safe loader, values are validated, and unknown
keys are named with a suggestion.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .models.spec import ModelSpec, explain


class RunFileError(ValueError):
    """A run file that cannot be read, or that says something it may not."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Generate(_Strict):
    """The arguments of ``Decoder.generate``; a run is reproducible unless it says otherwise."""

    max_new_tokens: int = Field(default=128, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    do_sample: bool | None = None
    seed: int = 0
    num_return_sequences: int = Field(default=1, ge=1)
    stop_strings: str | list[str] | None = None
    eos_token_id: int | list[int] | None = None
    batch_size: int = Field(default=32, ge=1)


class Data(_Strict):
    """Where prompts come from: JSON lines (with ``field``) or plain text, a prompt a line."""

    path: str
    field: str = "prompt"
    limit: int | None = Field(default=None, ge=1)


class RunFile(_Strict):
    """A run file. ``sweep`` and ``score`` are read by ``descant sweep``."""

    formula: str
    models: dict[str, ModelSpec]
    params: dict[str, float] = {}
    prompts: dict[str, str] = {}
    dtype: str | None = None
    device: str | None = None
    generate: Generate = Generate()
    data: Data | None = None
    sweep: dict[str, list[float]] | None = None
    score: dict[str, str] | None = None
    output: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        """``base: allenai/tulu-2-7b`` is short for ``base: {path: …}``."""
        if isinstance(value, dict) and isinstance(value.get("models"), dict):
            short = {
                k: {"path": v} if isinstance(v, str) else v for k, v in value["models"].items()
            }
            return {**value, "models": short}
        return value


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
    data = run.data.model_copy(update={"path": found(run.data.path)}) if run.data else None
    return run.model_copy(update={"models": models, "data": data})
