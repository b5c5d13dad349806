"""``descant train``: a train file to a folder that a formula loads.

Killed and started again, a training goes on from its last checkpoint. Under ``accelerate launch``
every process runs this; the first one alone writes.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import Trainer, TrainingArguments, set_seed

from ..inputs.yaml import YamlError, dump_yaml, load_yaml
from ..models import Description, ModelError
from ..runs.provenance import revision
from ..runs.resume import differences
from .batches import PairCollator, Row, TextCollator
from .encode import Counts, Encoder, shortened
from .examples import Example, read_examples
from .learner import description_of, model_of
from .record import RECORD, draw_curve, versions, write_record
from .trainers import TRAINERS, Finite, PairTrainer
from .trainfile import TrainFile, TrainFileError

RESOLVED = "train.yaml"
LENGTH = 1024
OURS: dict[str, Any] = {
    "logging_steps": 10,
    "logging_nan_inf_filter": False,  # a loss that is not a number is said
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,  # there are none
}


@dataclass(frozen=True)
class Trained:
    """A training that is done: its folder, its last metrics and what became of the rows."""

    folder: Path
    metrics: dict[str, float]
    rows: dict[str, Counts]


def train(said: TrainFile, say: Callable[[str], None] = print) -> Trained:
    """Train what a train file says, and write it to its output folder.

    The folder gets the checkpoint (a full one, or peft's adapter), ``train.yaml`` (what was
    trained, resolved), ``training.json`` and ``curve.png``.

    Args:
        said: the train file.
        say: is told what happens, in the first process.

    Raises:
        TrainFileError: the folder holds another training, or the data cannot be used.
        ModelError: the checkpoint cannot be trained so.
    """
    began = time.perf_counter()
    folder = Path(said.output)
    arguments = training_arguments(said)
    first = PartialState().is_main_process
    tell = say if first else _silent
    goes_on = _claim(said, folder)
    description = description_of(said)
    rows, counts = _data(said, description, arguments)
    for part, count in counts.items():
        tell(f"{part}: {count}")
    set_seed(arguments.seed)
    trainer = _trainer(said, description, arguments, rows)
    if goes_on:
        tell(f"goes on from {goes_on}")
    try:
        trainer.train(resume_from_checkpoint=goes_on)
        if "eval" in rows and not _evaluated(trainer):
            trainer.evaluate()
        _save(said, trainer, description, folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _unwritten(error):
            raise
        full = shutil.disk_usage(folder).free < 2**20
        what = "no space left" if full else str(error).splitlines()[0]
        raise TrainFileError(
            f"{folder} cannot be written: {what}; what is finished is kept, and the same command "
            "goes on from there"
        ) from error
    metrics = _last(trainer.state.log_history)
    if first:
        if draw_curve(folder, trainer.state.log_history) is None:
            tell('no curve: drawing needs matplotlib, pip install "descant[report]"')
        write_record(folder, {
            "recipe": resolved(said),
            "training_arguments": arguments.to_dict() | {"hub_token": None},
            "rows": {part: vars(count) for part, count in counts.items()},
            "metrics": metrics,
            "versions": versions(),
            "git": revision(),
            "processes": PartialState().num_processes,
            "device": str(arguments.device),
            "seconds": round(time.perf_counter() - began, 3),
            "log": trainer.state.log_history,
        })  # fmt: skip
    PartialState().wait_for_everyone()
    shown = [f"{key} {value:.4g}" for key, value in metrics.items() if "/" in key or "loss" in key]
    tell(f"{folder}: {', '.join(shown)}")
    return Trained(folder, metrics, counts)


def training_arguments(said: TrainFile) -> TrainingArguments:
    """The Trainer's arguments: those of the file, over a few of ours.

    Raises:
        TrainFileError: values that transformers refuses.
    """
    evaluates = said.eval_data is not None or said.eval_share > 0
    ours = OURS | ({"eval_strategy": "epoch"} if evaluates else {})
    try:
        made = TrainingArguments(**ours | said.training | {"output_dir": said.output})
    except (ValueError, TypeError, ImportError) as error:
        raise TrainFileError(f"training: {' '.join(str(error).split())}") from None
    if made.n_gpu > 1:
        made._n_gpu = 1  # one process is one device; several are accelerate's to launch
    return made


def resolved(said: TrainFile) -> dict[str, Any]:
    """What a train file says, defaults and all, but not where to."""
    content = said.model_dump(mode="json", exclude={"output"}, exclude_none=True)
    for key, method in (("beta", ("arm", "dpo")), ("length_normalization", ("arm",)),
                        ("prefixes", ("reward",))):  # fmt: skip
        if said.method not in method:
            content.pop(key)
    return content | {"too_long": _too_long(said)}


def _claim(said: TrainFile, folder: Path) -> str | None:
    """See that the folder is free or this training's own; its last checkpoint, if any."""
    content, file = resolved(said), folder / RESOLVED
    if folder.exists() and not folder.is_dir():
        raise TrainFileError(f"{folder} is a file, and the output is a folder; give another")
    there, done = file.is_file(), (folder / RECORD).exists() or _last_checkpoint(folder)
    changed = there and _changed(file, content)
    if changed and done:
        raise TrainFileError(
            f"{folder} holds another training: {changed}; give another output, "
            "or remove the folder to begin again"
        )
    if (folder / RECORD).exists():
        raise TrainFileError(f"{folder} is trained already; give another output to train again")
    if not there and folder.is_dir() and any(folder.iterdir()):
        raise TrainFileError(f"{folder} holds other files and no {RESOLVED}; give another output")
    PartialState().wait_for_everyone()
    if PartialState().is_main_process and (changed or not there):
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(dump_yaml(content), "utf-8")
    PartialState().wait_for_everyone()
    return _last_checkpoint(folder)


def _changed(file: Path, content: dict[str, Any]) -> str:
    """What differs from the training that a folder is of."""
    try:
        before = load_yaml(file.read_text(encoding="utf-8"))
    except (YamlError, UnicodeDecodeError) as error:
        return f"{file.name} {error}"
    return differences(before if isinstance(before, dict) else {}, content)


def _unwritten(error: Exception) -> bool:
    """Whether a disk would take no more: torch and safetensors say so in words of their own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
    return isinstance(error, SafetensorError) or "inline_container" in str(error)


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is whole: the Trainer writes its state last."""
    whole = folder.glob("checkpoint-*/trainer_state.json")
    steps = {int(file.parent.name.rpartition("-")[2]): file.parent for file in whole}
    return str(steps[max(steps)]) if steps else None


def _data(
    said: TrainFile, description: Description, arguments: TrainingArguments
) -> tuple[dict[str, list[Row]], dict[str, Counts]]:
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    quiet = arguments.disable_tqdm or not PartialState().is_main_process
    length = said.max_length or min(LENGTH, description.positions or LENGTH)
    drop = _too_long(said) == "drop"
    encoder = Encoder(said.model, description.tokenizer, description.eos, length, drop)
    chat = said.model.template is not None
    examples: dict[str, tuple[list[Example], int]] = {}
    examples["train"] = read_examples(said.data, said.method, chat=chat)
    if said.eval_data is not None:
        examples["eval"] = read_examples(said.eval_data, said.method, chat=chat)
    elif said.eval_share:
        found, bad = examples["train"]
        Random(seed).shuffle(found)
        cut = max(1, round(len(found) * said.eval_share))
        examples = {"train": (found[cut:], bad), "eval": (found[:cut], 0)}
    rows, counts = {}, {}
    for part, (found, bad) in examples.items():
        counts[part] = Counts(rows=len(found) + bad, bad=bad)
        shown = tqdm(found, f"{part}: tokens", disable=quiet, leave=False)
        rows[part] = encoder.rows(shown, counts[part])
        if not rows[part]:
            raise TrainFileError(f"no {part} row is left: {counts[part]}")
    if said.prefixes:
        rows["train"] = shortened(rows["train"], said.prefixes, seed)
    return rows, counts


def _trainer(
    said: TrainFile,
    description: Description,
    arguments: TrainingArguments,
    rows: dict[str, list[Row]],
) -> Trainer:
    pad = description.tokenizer.pad_token_id
    pad = pad if pad is not None else 0
    kind = TRAINERS[said.method]
    options: dict[str, Any] = {}
    if said.method in ("arm", "dpo"):
        options["beta"] = said.beta
    if said.method == "arm":
        options["mean"] = said.length_normalization
    try:
        trainer: Trainer = kind(
            model=model_of(said, description, arguments, pad),
            args=arguments,
            train_dataset=rows["train"],
            eval_dataset=rows.get("eval"),
            data_collator=(PairCollator if issubclass(kind, PairTrainer) else TextCollator)(pad),
            callbacks=[Finite()],
            **options,
        )
    except ValueError as error:  # of a quantisation that does not train, too
        if isinstance(error, TrainFileError | ModelError):
            raise
        raise TrainFileError(" ".join(str(error).split())) from error
    return trainer


def _save(said: TrainFile, trainer: Trainer, description: Description, folder: Path) -> None:
    """Write the checkpoint as a formula loads it. A head has no place in an adapter: merged."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = model.config
    config.use_cache = True  # off while training
    if said.method == "reward" and description.tokenizer.pad_token_id is None:
        config.get_text_config().pad_token_id = None
    if said.method == "reward" and said.lora is not None:
        if trainer.is_world_process_zero():
            model.merge_and_unload().save_pretrained(folder)
    else:
        trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; training.json has them
        if said.lora is None or said.method == "reward":
            description.tokenizer.save_pretrained(str(folder))


def _too_long(said: TrainFile) -> str:
    return said.too_long or ("drop" if said.method == "reward" else "truncate")


def _evaluated(trainer: Trainer) -> bool:
    """Whether the last step was evaluated."""
    steps = [row["step"] for row in trainer.state.log_history if "eval_loss" in row]
    return bool(steps) and steps[-1] == trainer.state.global_step


def _last(history: list[dict[str, float]]) -> dict[str, float]:
    """The newest value of every metric."""
    found: dict[str, float] = {}
    for row in history:
        found |= row
    return found


def _silent(line: str) -> None:
    """Other processes say nothing."""
