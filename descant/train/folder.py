"""The output folder of a training: free, or that training's own, and written by one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState

from .. import disk
from ..inputs.yaml import YamlError, dump_yaml, load_yaml
from ..results.lock import is_lock, writing
from ..runs.resume import differences
from .record import RECORD
from .trainfile import TrainFileError

RESOLVED, CHECKPOINTS = "train.yaml", "checkpoint-*"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Around a training into a folder: nobody else writes there.

    Raises:
        TrainFileError: it is a file, or holds other files.
        RunFileError: another process writes to it.
    """
    if folder.exists() and not folder.is_dir():
        raise TrainFileError(f"{folder} is a file, and the output is a folder; give another")
    foreign = folder.is_dir() and not (folder / RESOLVED).is_file()
    if foreign and not all(is_lock(f) or f.name.startswith(disk.NEW) for f in folder.iterdir()):
        raise TrainFileError(f"{folder} holds other files and no {RESOLVED}; give another output")
    with disk.resumable(), ExitStack() as lock:
        if PartialState().is_main_process:
            disk.make_folder(folder)
            lock.enter_context(writing(folder))
        PartialState().wait_for_everyone()
        yield


def claim(folder: Path, content: dict[str, Any]) -> None:
    """Check that a folder is free, or has this training's resolved file; and write that.

    Raises:
        TrainFileError: it holds another training, or this one, finished.
    """
    file, is_done = folder / RESOLVED, (folder / RECORD).exists()
    exists, begun = file.is_file(), is_done or any(folder.glob(CHECKPOINTS))
    changed = exists and _changed(file, content)
    if changed and begun:
        cure = "give another output, or remove the folder to begin again"
        raise TrainFileError(f"{folder} holds another training: {changed}; {cure}")
    if is_done:
        raise TrainFileError(f"{folder} is trained already; give another output to train again")
    PartialState().wait_for_everyone()
    if PartialState().is_main_process and (changed or not exists):
        disk.replace(file, dump_yaml(content))
    PartialState().wait_for_everyone()


def _changed(file: Path, content: dict[str, Any]) -> str:
    """How a training differs from the one in a folder."""
    try:
        with disk.reading(file):
            text = file.read_text(encoding="utf-8")
        before = load_yaml(text)
    except (YamlError, UnicodeDecodeError) as error:
        return f"{file.name} {error}"
    return differences(before if isinstance(before, dict) else {}, content)
