"""The weight files of a checkpoint: found, checked, and read a tensor at a time.

They are checked before weights are read, so that a missing shard costs no time. No model is made
here.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_files

from ...errors import quoted
from ..errors import ModelError, first_line
from .hub import cached, hub_error

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file, not read yet; to transformers, a safetensors slice.

    The file is opened for each tensor, and unmapped once the tensor is converted or moved to its
    device.
    """

    file: str
    name: str
    dtype: str
    numbers: int

    def __getitem__(self, index: Any) -> Any:
        with safe_open(self.file, framework="pt", device="cpu") as file:
            return file.get_slice(self.name)[index]


def weight_files(name: str, path: str, revision: str | None) -> list[str]:
    """Every file that holds weights of a checkpoint; those of a hub id are downloaded.

    Raises:
        ModelError: none there, pickled ones only, or a shard that the index names is missing.
    """
    try:
        if single := cached(path, SINGLE, revision, ["missing_entries"]):
            return [single]
        index = cached(path, INDEX, revision, ["missing_entries"])
        shards = [] if index is None else sorted(set(weight_map(name, index).values()))
        if shards and not os.path.isdir(path):
            options = {"_raise_exceptions_for_missing_entries": False}
            cached_files(path, shards, revision=revision or "main", **options)
    except OSError as error:
        what = f"the weights of {name}: "
        raise hub_error(error, path, revision, name, ("", ""), what) from error
    if index is None:
        raise _no_weights(name, path)
    folder = Path(index).parent
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        which = f"{missing[0]} is"
        if missing[1:]:
            which = f"{missing[0]} and {len(missing) - 1} more are"
        problem = f"the checkpoint of {name} in {path} is partial: of {len(shards)} shards, {which}"
        cure = f"copy or download it again; {INDEX} names every shard"
        raise ModelError(f"{problem} missing", cure, name)
    return [str(folder / shard) for shard in shards]


def stored_tensors(name: str, files: list[str]) -> dict[str, StoredTensor]:
    """The tensors of files, from their headers alone.

    Raises:
        ModelError: a file that is cut short, or is not safetensors.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt", device="cpu") as opened:
                for key in opened.keys():  # noqa: SIM118 - not a mapping
                    part = opened.get_slice(key)
                    numbers = math.prod(part.get_shape())
                    tensors[key] = StoredTensor(file, key, part.get_dtype(), numbers)
        except (OSError, SafetensorError) as error:
            problem = f"the weights of {name} cannot be read: {file} is cut short or corrupt"
            cure = "copy or download that file again"
            raise ModelError(f"{problem} ({first_line(error)})", cure, name) from error
    return tensors


def folder_identity(folder: str) -> tuple[str, ...]:
    """Equal for folders that hold the same files, links resolved.

    Where weights are not downloaded yet, it is the folder.
    """
    weights = sorted(Path(folder).glob("*.safetensors"))
    if not weights:
        return (os.path.realpath(folder),)
    others = [Path(folder, file) for file in ("config.json", INDEX)]
    return tuple(os.path.realpath(file) for file in (*others, *weights) if file.is_file())


def weight_map(name: str, index: str) -> dict[str, str]:
    """Which shard, beside the index, holds each tensor.

    Raises:
        ModelError: an index that says nothing, or names a file elsewhere.
    """
    try:
        shards = json.loads(Path(index).read_text(encoding="utf-8")).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
            raise ValueError("it has no weight_map of tensors to files")
        if outside := [file for file in shards.values() if file != os.path.basename(file)]:
            raise ValueError(f"it names {quoted(outside[0])}, and shards are beside it")
        return shards
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        problem = f"the index of {name}'s weights, {index}, cannot be read: {first_line(error)}"
        raise ModelError(problem, "copy or download it again", name) from error


def _no_weights(name: str, path: str) -> ModelError:
    folder = Path(path)
    unsafe = sorted(file.name for file in folder.glob("*.bin")) if folder.is_dir() else []
    others = sorted(file.name for file in folder.glob("*.safetensors")) if folder.is_dir() else []
    what = f"{'the folder ' if folder.is_dir() else ''}{path} of the model {name}"
    if others:
        problem = f"{what} has {others[0]}, and neither {SINGLE} nor {INDEX}"
        cure = f"name it {SINGLE}, or write it again with save_pretrained"
        return ModelError(problem, cure, name)
    pickled = f", only {unsafe[0]}, which can run code when it is read" if unsafe else ""
    problem = f"{what} has no safetensors weights{pickled}"
    cure = "save it with save_pretrained(…, safe_serialization=True), or name a revision with some"
    return ModelError(problem, cure, name)
