"""``descant train``: a method, its train file, and who trains it. Reading it executes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ..grammar import did_you_mean
from ..inputs.settings import FileKind, relative_to
from .states.recipe import ProbeFile, VectorFile
from .trainfile import PATHS, TrainFile, TrainFileError, training_fields

AnyTrainFile: TypeAlias = TrainFile | VectorFile | ProbeFile
_FITTED = ("arm", "dpo", "reward", "sft", "distill")  # by transformers' Trainer
METHODS = (*_FITTED, "vector", "probe")
_NAME, _SHORT = "train file", dict.fromkeys(PATHS, "path")
_OWN = ("data", "key of data")
_KINDS: dict[str, FileKind[Any]] = {
    **dict.fromkeys(
        _FITTED,
        FileKind(_NAME, TrainFile, ("model", "data"), TrainFileError, _SHORT,
                 ("training", "training argument")),
    ),
    "vector": FileKind(_NAME, VectorFile, ("model", "data"), TrainFileError, _SHORT, _OWN),
    "probe": FileKind(_NAME, ProbeFile, ("model", "data"), TrainFileError, _SHORT, _OWN),
}  # fmt: skip


def read_train_file(
    method: str, path: str | Path | None, overrides: Sequence[str] = (), **values: str | None
) -> Any:
    """Read and validate a train file, or make one from the command line alone.

    Args:
        method: the command's; a file of another method is refused.
        path: the file; relative paths that exist beside it are found there.
        overrides: ``key=value`` each: a dotted key, or the bare name of a training argument.
        **values: ``model``, ``data`` and ``output``, over the file's.

    Returns:
        A ``TrainFile``, a ``VectorFile`` or a ``ProbeFile``, by the method.

    Raises:
        TrainFileError: no such file, not YAML, or not a train file; names the key.
    """
    if method not in METHODS:
        raise TrainFileError(f"there is no method {method}; {did_you_mean(method, METHODS)}")
    kind = _KINDS[method]
    content = {} if path is None else kind.read(path)
    if content.setdefault("method", method) != method:
        other = content["method"]
        raise TrainFileError(f"{path} is for {other}: write descant train {other} {path}")
    content |= {key: value for key, value in values.items() if value is not None}
    for override in overrides:
        kind.override(content, override, training_fields if method in _FITTED else tuple)
    missing = [key for key in ("model", "data", "output") if key not in content]
    if missing:
        raise TrainFileError(f"{path or 'the command'} has no {missing[0]}; give --{missing[0]}")
    recipe = kind.validated(content, str(path or "descant train"))
    if path is None:
        return recipe
    update = {
        key: section.model_copy(update={"path": relative_to(Path(path).parent, section.path)})
        for key in PATHS
        if (section := getattr(recipe, key, None))
    }
    return recipe.model_copy(update=update)


def run_train_file(recipe: AnyTrainFile, say: Callable[[str], None] = print) -> None:
    """Train what a train file describes, and write it to its output folder.

    Raises:
        TrainFileError, RunFileError, ModelError, DiskError: as ``loop.train``.
    """
    if isinstance(recipe, VectorFile):
        from .states.vector import train_vector

        train_vector(recipe, say)
    elif isinstance(recipe, ProbeFile):
        from .states.probe import train_probe

        train_probe(recipe, say)
    else:
        from .loop import train

        train(recipe, say)
