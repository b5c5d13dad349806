"""Where the models and the data of a run come from: commits and hashes, for ``meta.json``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..disk import reading
from ..inputs.runfile import RunFile
from ..models import ModelSpec

LARGEST = 8 << 30  # bytes of a model's files that are hashed: some seconds
_WEIGHTS = ("*.safetensors", "*.gguf")
_CONFIGURATIONS = ("config.json", "adapter_config.json")


def origins(run: RunFile, prompts: int) -> dict[str, Any]:
    """What a run has read: ``models`` by name, and ``data``.

    Of a model of the hub, the ``commit`` that was read; of files, ``sha256`` by their names, as
    ``sha256sum`` gives them. A model beyond 8 GiB has none, and neither does one in memory.

    Args:
        run: a run whose models were loaded.
        prompts: how many its data gave.
    """
    models = {name: _model(spec) for name, spec in run.models.items()}
    return {"models": {name: of for name, of in models.items() if of}, "data": _data(run, prompts)}


def _model(spec: ModelSpec) -> dict[str, Any]:
    source = spec.path or spec.adapter or spec.vector or spec.head
    if not isinstance(source, str):
        return {}
    if os.path.exists(source):
        files = list(_files(Path(source)))
        if not files or sum(file.stat().st_size for file in files) > LARGEST:
            return {}
        return {"sha256": {file.name: sha256(file) for file in files}}
    commit = _commit(source, spec.revision)
    return {"commit": commit} if commit else {}


def _files(source: Path) -> Iterator[Path]:
    """The files that hold weights."""
    if source.is_file():
        yield source
    else:
        for pattern in _WEIGHTS:
            yield from sorted(source.glob(pattern))


def _commit(source: str, revision: str | None) -> str | None:
    """The commit of a hub id in the cache; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    for file in _CONFIGURATIONS:
        try:
            path = try_to_load_from_cache(source, file, revision=revision or "main")
        except ValueError:  # no hub id, as ``own`` of a head
            return None
        if isinstance(path, str):
            return Path(path).parent.name  # snapshots/<commit>/config.json
    return None


def _data(run: RunFile, prompts: int) -> Mapping[str, Any]:
    if run.data is None:
        return {}
    file = run.data.path and Path(run.data.path)
    hashed = {"sha256": sha256(file)} if file and file.is_file() else {}
    return {**hashed, "prompts": prompts}


def sha256(file: Path) -> str:
    """The hash of a file's content."""
    with reading(file), file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
