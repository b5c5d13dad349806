"""The weight files of a checkpoint: found, checked, and read a tensor at a time.

They are checked before weights are read, so that a missing shard costs no time. No model is made
here.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, first_line
from .hub import explain_hub_error

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

    def __getitem__(self, index: Any) -> Any:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt", device="cpu") as file:
            return file.get_slice(self.name)[index]


def weight_files(name: str, path: str, revision: str | None) -> list[str]:
    """Every file that holds weights of a checkpoint; those of a hub id are downloaded.

    Raises:
        ModelError: none there, pickled ones only, or a shard that the index names is missing.
    """
    from transformers.utils.hub import cached_file, cached_files

    options = {"revision": revision or "main", "_raise_exceptions_for_missing_entries": False}
    try:
        single = cached_file(path, SINGLE, **options)
        if single is not None:
            return [str(single)]
        index = cached_file(path, INDEX, **options)
        shards = [] if index is None else _shards(name, str(index))
        if shards and not os.path.isdir(path):
            cached_files(path, shards, **options)
    except OSError as error:
        problem, cure = explain_hub_error(error, path, revision) or (first_line(error), "")
        raise ModelError(f"the weights of {name}: {problem}", cure, name) from error
    if index is None:
        raise _no_weights(name, path)
    folder = Path(str(index)).parent
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ModelError(
            f"the checkpoint of {name} in {path} is partial: of {len(shards)} shards, "
            f"{missing[0]}{more} {'are' if more else 'is'} missing",
            f"copy or download it again; {INDEX} names every shard",
            name,
        )
    return [str(folder / shard) for shard in shards]


def stored_tensors(name: str, files: list[str]) -> dict[str, StoredTensor]:
    """The tensors of files, from their headers alone.

    Raises:
        ModelError: a file that is cut short, or is not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, StoredTensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt", device="cpu") as opened:
                for key in opened.keys():  # noqa: SIM118 - not a mapping
                    tensors[key] = StoredTensor(file, key, opened.get_slice(key).get_dtype())
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"the weights of {name} cannot be read: {file} is cut short or corrupt "
                f"({first_line(error)})",
                "copy or download that file again",
                name,
            ) from error
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


def _shards(name: str, index: str) -> list[str]:
    try:
        content = json.loads(Path(index).read_text(encoding="utf-8"))
        shards = content.get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
            raise ValueError("it has no weight_map of tensors to files")
        return sorted(set(shards.values()))
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the index of {name}'s weights, {index}, cannot be read: {first_line(error)}",
            "copy or download it again",
            name,
        ) from error


def _no_weights(name: str, path: str) -> ModelError:
    folder = Path(path)
    unsafe = sorted(file.name for file in folder.glob("*.bin")) if folder.is_dir() else []
    others = sorted(file.name for file in folder.glob("*.safetensors")) if folder.is_dir() else []
    what = f"{'the folder ' if folder.is_dir() else ''}{path} of the model {name}"
    if others:
        return ModelError(
            f"{what} has {others[0]}, and neither {SINGLE} nor {INDEX}",
            f"name it {SINGLE}, or write it again with save_pretrained",
            name,
        )
    pickled = f", only {unsafe[0]}, which can run code when it is read" if unsafe else ""
    return ModelError(
        f"{what} has no safetensors weights{pickled}",
        "save it with save_pretrained(…, safe_serialization=True), or name a revision with some",
        name,
    )
