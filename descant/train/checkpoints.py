"""Checkpoints of a training: which one is whole, and how one is made that is seen to be.

transformers writes a checkpoint file by file. Ours ends with a manifest, sizes and hashes of the
files that a resume reads; one without it, of an earlier version, is read instead.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, reduce
from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from .. import disk
from .folder import CHECKPOINTS

MANIFEST, STATE = "manifest.json", "trainer_state.json"
_UNREAD = {MANIFEST, "README.md", "training_args.bin"}  # by a resume
_SHARDED = "model.safetensors.index.json"


class CheckpointTrainer(Trainer):
    """transformers' Trainer, whose checkpoints end with a manifest.

    An older checkpoint goes only when the newer one is whole and on the disk.
    """

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with disk.saving(checkpoint):
            if self.is_world_process_zero() and checkpoint.exists():
                shutil.rmtree(checkpoint)  # it is not whole, or training would not come here again
            self.accelerator.wait_for_everyone()
            limit, self.args.save_total_limit = self.args.save_total_limit, None
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.save_total_limit = limit
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                seal(checkpoint, self.args.world_size)
                _rotate(Path(self.args.output_dir), limit, self.state.best_model_checkpoint)


class MissedEvaluation(TrainerCallback):
    """Evaluates where a checkpoint of an epoch's end is resumed: it was saved before that."""

    def __init__(self, evaluate: Callable[[], Any]) -> None:
        self._evaluate = evaluate

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        done = any("eval_loss" in row and row["step"] == state.global_step
                   for row in state.log_history)  # fmt: skip
        if state.epoch and state.epoch == int(state.epoch) and not done:
            self._evaluate()


class TimeLimit(TrainerCallback):
    """Ends a training after so many seconds, with a checkpoint that the same command goes on from.

    Attributes:
        reached: whether it has ended the training before its last step.
    """

    def __init__(self, seconds: float, start: float) -> None:
        self._end, self.reached = start + seconds, False

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        over = torch.tensor(float(time.perf_counter() >= self._end), device=args.device)
        if args.world_size > 1:
            over = reduce(over, "sum")  # all processes stop at one step
        if over > 0 and state.global_step < state.max_steps:
            self.reached = control.should_save = control.should_training_stop = True


def _rotate(folder: Path, limit: int | None, best: str | None) -> None:
    """Remove the checkpoints beyond a limit; transformers passes over a file that it cannot."""
    for _ in range(2):
        rotate_checkpoints(
            output_dir=str(folder), save_total_limit=limit, best_model_checkpoint=best
        )


def seal(checkpoint: Path, processes: int) -> None:
    """Bring a checkpoint onto the disk, and then write its manifest.

    Raises:
        DiskError: it cannot be written.
    """
    disk.sync(checkpoint)
    files = {str(file.relative_to(checkpoint)): _identity(file) for file in _read_files(checkpoint)}
    content = {"schema": 1, "processes": processes, "files": files}
    disk.replace(checkpoint / MANIFEST, json.dumps(content, indent=1) + "\n")
    disk.sync(checkpoint.parent)


def newest_complete(
    folder: Path, arguments: TrainingArguments, say: Callable[[str], None]
) -> str | None:
    """The newest checkpoint that is whole, the same in every process; None where there is none.

    Each newer one is said, with what is wrong with it.
    """
    found: list[str | None] = [None]
    if PartialState().is_main_process:
        found = [_newest_complete(folder, arguments, say)]
    if PartialState().num_processes > 1:
        broadcast_object_list(found)
    return found[0]


def _newest_complete(
    folder: Path, arguments: TrainingArguments, say: Callable[[str], None]
) -> str | None:
    steps, processes = {}, arguments.world_size
    for checkpoint in folder.glob(CHECKPOINTS):
        if (number := checkpoint.name.rpartition("-")[2]).isdecimal() and checkpoint.is_dir():
            steps[int(number)] = checkpoint
    for step in sorted(steps, reverse=True):
        if not (fault := fault_of(steps[step], step)):
            if (before := _processes(steps[step])) != processes:
                say(f"{steps[step]} is of {before} processes, and there are {processes}: rows and "
                    "noise are divided otherwise from here on")  # fmt: skip
            if not (steps[step] / MANIFEST).exists():
                seal(steps[step], before)
            if step == max(steps):  # else the newer ones, which are not whole, would be kept
                best = _mapping(steps[step] / STATE).get("best_model_checkpoint")
                _rotate(folder, arguments.save_total_limit, best)
            return str(steps[step])
        say(f"{steps[step]} is skipped: {fault}")
    if steps:
        say(f"no checkpoint in {folder} is whole: training begins again")
    return None


def fault_of(checkpoint: Path, step: int) -> str:
    """What keeps a checkpoint from being resumed; empty where nothing does."""
    try:
        return _fault_of(checkpoint, step)
    except disk.DiskError as error:
        return str(error)


def _fault_of(checkpoint: Path, step: int) -> str:
    files: dict[str, Any] = {}
    manifest = checkpoint / MANIFEST
    if manifest.exists():
        files = _mapping(manifest).get("files", {})
        if not isinstance(files, dict) or not files:
            return f"{MANIFEST} cannot be read"
    for name, identity in files.items():
        if not (checkpoint / name).is_file():
            return f"it has no {name}"
        if _identity(checkpoint / name) != identity:
            return f"{name} is not as it was written"
    if lacking := _lacking(checkpoint):
        return f"it has no {lacking}"
    unreadable = (file for file in _read_files(checkpoint) if not files and not _reads(file))
    if (file := next(unreadable, None)) is not None:
        return f"{file.name} cannot be read"
    if _mapping(checkpoint / STATE).get("global_step") != step:
        return f"{STATE} is not of step {step}"
    return ""


def _lacking(checkpoint: Path) -> str:
    """The first file that every resume reads and that is not there; empty where all are."""
    kind = "adapter_" if any(checkpoint.glob("adapter_*")) else ""
    needed = (  # one of each line; the later ones of a line are DeepSpeed's and FSDP's
        (STATE,),
        (f"{kind}config.json",),
        (f"{kind}model.safetensors", _SHARDED, "pytorch_model_fsdp*", "global_step*"),
        ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
        ("scheduler.pt", "global_step*"),
        ("rng_state*.pth",),
    )
    for names in needed:
        paths = (path for name in names for path in checkpoint.glob(name))
        if not any(path.is_file() or (path.is_dir() and not path.suffix) for path in paths):
            return names[0].replace("*", "")
    return ""


def _read_files(checkpoint: Path) -> Iterator[Path]:
    """The files of a checkpoint that a resume reads."""
    for file in sorted(checkpoint.rglob("*")):
        if file.is_file() and file.name not in _UNREAD and not file.name.startswith("."):
            yield file


def _identity(file: Path) -> dict[str, Any]:
    with disk.reading(file), file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}


def _reads(file: Path) -> bool:
    """Whether a file without a manifest is whole, by its own format."""
    with disk.reading(file):
        if file.suffix == ".json":
            content = _mapping(file)
            shards = content.get("weight_map", {}) if file.name == _SHARDED else {}
            return bool(content) and all((file.parent / name).is_file() for name in shards.values())
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt") as tensors:
                    return bool(tensors.keys())
            except SafetensorError:
                return False
        if file.suffix in (".pt", ".pth", ".bin"):
            try:
                with zipfile.ZipFile(file) as archive:
                    return archive.testzip() is None
            except zipfile.BadZipFile:
                return False
    return True


def _mapping(file: Path) -> dict[str, Any]:
    """A JSON file's mapping; an empty one where it is torn."""
    try:
        with disk.reading(file):
            content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _processes(checkpoint: Path) -> int:
    return len(list(checkpoint.glob("rng_state*.pth")))
