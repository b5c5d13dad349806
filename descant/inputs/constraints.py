"""Schemas and grammars of a run file: read from their files, so that the resolved run has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, quoted
from ..grammar import did_you_mean
from ..runtime.constraints.limits import TEXT
from ..runtime.constraints.spec import constraint_of, schema_text
from .yaml import YamlError, load_yaml

SECTIONS = ("schemas", "grammars")


def with_files(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The content of a run file with the text of every schema and grammar that is a file's name.

    A schema in text is JSON, a grammar in text has a line for each rule; anything else is a path,
    relative to the run file's folder.

    Raises:
        ArgumentError: no such file, or one that cannot be read.
    """
    read = dict(content)
    for section in SECTIONS:
        if isinstance(declared := content.get(section), Mapping):
            read[section] = {
                name: _read(f"{section}.{name}", value, folder, section)
                for name, value in declared.items()
            }
    return read


def schema_of(name: str, value: Any) -> dict[str, Any]:
    """A declared schema as a mapping; errors are those of ``schema_text``."""
    schema: dict[str, Any] = json.loads(schema_text(value, f"schemas.{name}"))
    return schema


def structured_outputs_of(
    form: Any, schemas: Mapping[str, Any], grammars: Mapping[str, str]
) -> dict[str, Any] | None:
    """``generate.structured_outputs``, checked, with the declared schema or grammar that it names.

    Raises:
        ArgumentError: as ``constraint_of``.
    """
    if form is None:
        return None
    if isinstance(form, Mapping):
        for key, declared in (("json", schemas), ("grammar", grammars)):
            if isinstance(name := form.get(key), str) and name.isidentifier():
                if name not in declared:
                    kind = "schema" if key == "json" else "grammar"
                    cure = did_you_mean(name, declared) or f"declare it under {kind}s"
                    where = f"generate.structured_outputs.{key}"
                    raise ArgumentError(f"{where} is {name}, and no {kind} is named so; {cure}")
                form = {**form, key: declared[name]}
    constraint_of(form, "generate.structured_outputs")
    return dict(form)


def _read(where: str, value: Any, folder: Path, section: str) -> Any:
    # No name of a file begins so, and none has several lines.
    text_of_itself = "{" if section == "schemas" else ("start:", "?start:")
    if not isinstance(value, str) or "\n" in value or value.strip().startswith(text_of_itself):
        return value
    file = folder / value
    if not file.is_file():
        raise ArgumentError(f"{where}: there is no file {quoted(value)}")
    try:
        if file.stat().st_size > 4 * TEXT:
            raise ArgumentError(f"{where}: {file} is larger than {4 * TEXT} bytes")
        text = file.read_text(encoding="utf-8-sig")
        is_yaml = section == "schemas" and file.suffix in (".yaml", ".yml")
        return load_yaml(text) if is_yaml else text
    except (YamlError, OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"{where}: {file} cannot be read: {error}") from None
