"""``descant train``: a train file to a folder that a formula loads.

A training that was killed resumes from its last checkpoint. Under ``accelerate launch`` every
process runs this, and only the first one writes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from accelerate import PartialState
from tqdm import tqdm
from transformers import IntervalStrategy, Trainer, TrainingArguments, set_seed

from .. import disk
from ..extras import MissingExtra
from ..models import ModelError
from ..models.checkpoint.description import Description
from ..runs.provenance import revision
from .batches import Collator, Row
from .checkpoints import CheckpointTrainer, MissedEvaluation, TimeLimit, newest_complete
from .encode import Counts, Encoder, shortened
from .examples import Example, read_examples
from .folder import claim, held
from .formulas.effect import effect
from .formulas.teacher import ANSWERS, Teacher
from .model import description_of, model_of
from .record import draw_curve, versions, write_record
from .trainers import TRAINERS, Finite
from .trainfile import ONLY_OF, TrainFile, TrainFileError

LENGTH = 1024
Rows: TypeAlias = dict[str, list[Row]]  # of "train" and perhaps "eval"
OURS: dict[str, Any] = {
    "logging_steps": 10,
    "logging_nan_inf_filter": False,  # a loss that is not finite is logged
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
}


@dataclass(frozen=True)
class Trained:
    """A training: its folder, its last metrics, its counts of rows, and whether it is finished."""

    folder: Path
    metrics: dict[str, float]
    rows: dict[str, Counts]
    finished: bool = True


def train(recipe: TrainFile, say: Callable[[str], None] = print) -> Trained:
    """Train what a train file describes, and write it to its output folder.

    The folder gets the checkpoint (a full one, or peft's adapter), ``train.yaml`` (the resolved
    train file), ``training.json`` and ``curve.png``.

    Args:
        say: is called with each message, in the first process.

    Raises:
        TrainFileError: the folder holds another training, or the data cannot be used.
        RunFileError: another process writes to the folder.
        ModelError: the checkpoint cannot be trained this way.
    """
    arguments, folder = training_arguments(recipe), Path(recipe.output)
    with held(folder):
        return _train(recipe, arguments, folder, say)


def _train(
    recipe: TrainFile, arguments: TrainingArguments, folder: Path, say: Callable[[str], None]
) -> Trained:
    start = time.perf_counter()
    is_first = PartialState().is_main_process
    log = say if is_first else lambda line: None
    teacher = _teacher(recipe)
    claim(folder, resolved(recipe, teacher))
    description = description_of(recipe)
    if teacher is not None and recipe.loss == "kl":
        teacher.check(description)
    parts, rows, counts = _data(recipe, description, arguments, teacher, log)
    examples = [example for part in parts.values() for example in part]
    for part, count in counts.items():
        log(f"{part}: {count}")
    checkpoint = newest_complete(folder, arguments, log)
    set_seed(arguments.seed)
    trainer = _trainer(recipe, description, arguments, rows, teacher, examples)
    if checkpoint:
        log(f"resumes from {checkpoint}")
    limit = TimeLimit(recipe.max_time or math.inf, start)
    trainer.add_callback(limit)
    _fit(recipe, trainer, description, checkpoint, limit)
    history, step = trainer.state.log_history, trainer.state.global_step
    last = trainer.state.max_steps
    trainer.accelerator.free_memory()
    del trainer
    metrics = {key: value for entry in history for key, value in entry.items()}  # the newest
    if limit.reached:
        log(f"{folder}: stopped at step {step} of {last}, by max_time; the same command goes on")
        return Trained(folder, metrics, counts, finished=False)
    if is_first:
        try:
            draw_curve(folder, history)
        except MissingExtra as error:
            log(f"no curve: {error}")
        held_out = "eval" in parts
        measured = effect(
            recipe, parts["eval" if held_out else "train"], held_out, str(arguments.device),
            arguments.seed, log,
        )  # fmt: skip
        write_record(folder, {
            "recipe": resolved(recipe, teacher),
            "training_arguments": arguments.to_dict() | {"hub_token": None},
            "rows": {part: vars(count) for part, count in counts.items()},
            "metrics": metrics,
            "check": None if measured is None else measured.content(),
            "versions": versions(),
            "git": revision(),
            "processes": PartialState().num_processes,
            "device": str(arguments.device),
            "seconds": round(time.perf_counter() - start, 3),
            "log": history,
        })  # fmt: skip
    PartialState().wait_for_everyone()
    shown = [f"{key} {value:.4g}" for key, value in metrics.items() if "/" in key or "loss" in key]
    log(f"{folder}: {', '.join(shown)}")
    return Trained(folder, metrics, counts)


def _fit(
    recipe: TrainFile, trainer: Trainer, description: Description, last: str | None,
    limit: TimeLimit,
) -> None:  # fmt: skip
    if last is not None and trainer.args.eval_strategy == IntervalStrategy.EPOCH:
        trainer.add_callback(MissedEvaluation(trainer.evaluate))
    trainer.train(resume_from_checkpoint=last)
    if limit.reached:
        return
    steps = [row["step"] for row in trainer.state.log_history if "eval_loss" in row]
    if trainer.eval_dataset is not None and steps[-1:] != [trainer.state.global_step]:
        trainer.evaluate()
    _save(recipe, trainer, description, Path(recipe.output))


def training_arguments(recipe: TrainFile) -> TrainingArguments:
    """The Trainer's arguments: the file's over our defaults.

    Raises:
        TrainFileError: values that transformers refuses.
    """
    evaluates = recipe.eval_data is not None or recipe.eval_share > 0
    ours = OURS | ({"eval_strategy": "epoch"} if evaluates else {})
    try:
        arguments = TrainingArguments(**ours | recipe.training | {"output_dir": recipe.output})
    except (ValueError, TypeError, ImportError) as error:
        raise TrainFileError(f"training: {' '.join(str(error).split())}") from None
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process is one device; accelerate launches several
    return arguments


def resolved(recipe: TrainFile, teacher: Teacher | None = None) -> dict[str, Any]:
    """A train file's content with its defaults and its teacher, without the output folder."""
    left_out = {"output", "check", "max_time"}  # they change nothing of what is learnt
    content = recipe.model_dump(mode="json", exclude=left_out, exclude_none=True)
    for key, methods in ONLY_OF.items():
        if recipe.method not in methods:
            content.pop(key, None)
    if teacher is not None:
        content["teacher"] = teacher.run.model_dump(mode="json", exclude_defaults=True)
    return content | {"too_long": _too_long(recipe)}


def _teacher(recipe: TrainFile) -> Teacher | None:
    if recipe.teacher is None:
        return None
    return Teacher(recipe.teacher.path, recipe.teacher.formula)


def _data(
    recipe: TrainFile, description: Description, arguments: TrainingArguments,
    teacher: Teacher | None, log: Callable[[str], None],
) -> tuple[dict[str, list[Example]], Rows, dict[str, Counts]]:  # fmt: skip
    """Examples, rows and counts of each part; rows are numbered by the examples of all parts."""
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    quiet = arguments.disable_tqdm or not PartialState().is_main_process
    length = recipe.max_length or min(LENGTH, description.positions or LENGTH)
    drop = _too_long(recipe) == "drop"
    encoder = Encoder(
        recipe.model, description.tokenizer, description.eos, length, drop, description.size,
        indexed=teacher is not None and recipe.loss == "kl",
    )  # fmt: skip
    chat = recipe.model.template is not None
    examples = {"train": read_examples(recipe.data, recipe.method, chat=chat)}
    if recipe.eval_data is not None:
        examples["eval"] = read_examples(recipe.eval_data, recipe.method, chat=chat)
    if teacher is not None:
        for part, (good, bad) in examples.items():
            with PartialState().main_process_first():
                folder = Path(recipe.output) / f"{part}-{ANSWERS}"
                examples[part] = teacher.answer(good, folder, quiet, log), bad
    if recipe.eval_share:
        pool, bad = examples["train"]
        Random(seed).shuffle(pool)
        cut = max(1, round(len(pool) * recipe.eval_share))
        examples = {"train": (pool[cut:], bad), "eval": (pool[:cut], 0)}
    rows, counts, first = {}, {}, 0
    for part, (good, bad) in examples.items():
        counts[part] = Counts(rows=len(good) + bad, bad=bad)
        with_bar = tqdm(good, f"{part}: tokens", disable=quiet, leave=False)
        rows[part] = encoder.rows(with_bar, counts[part], first)
        first += len(good)
        if not rows[part]:
            raise TrainFileError(f"no {part} row is left: {counts[part]}")
    if recipe.prefixes:
        rows["train"] = shortened(rows["train"], recipe.prefixes, seed)
    return {part: good for part, (good, _) in examples.items()}, rows, counts


def _trainer(
    recipe: TrainFile, description: Description, arguments: TrainingArguments, rows: Rows,
    teacher: Teacher | None, examples: Sequence[Example],
) -> Trainer:  # fmt: skip
    pad = description.tokenizer.pad_token_id or 0
    own: dict[str, Any] = {"beta": recipe.beta, "mean": recipe.length_normalization}
    kind: Any = TRAINERS.get(recipe.method, CheckpointTrainer)
    collator = Collator(pad)
    if kind is CheckpointTrainer:
        own = {}
    if teacher is not None and recipe.loss == "kl":
        from .formulas.distill import DistillTrainer, IndexedCollator

        def distributions(numbers: Sequence[int], answers: Sequence[Sequence[int]]) -> Any:
            return teacher.logprobs([examples[number].prompt for number in numbers], answers)

        kind, collator = DistillTrainer, IndexedCollator(pad)
        own = {"teacher": distributions}
    try:
        trainer: Trainer = kind(
            model=model_of(recipe, description, arguments.device, pad),
            args=arguments,
            train_dataset=rows["train"],
            eval_dataset=rows.get("eval"),
            data_collator=collator,
            callbacks=[Finite()],
            **own,
        )
    except (TrainFileError, ModelError):
        raise
    except ValueError as error:  # also of a quantisation that cannot be trained
        raise TrainFileError(" ".join(str(error).split())) from error
    return trainer


def _save(recipe: TrainFile, trainer: Trainer, description: Description, folder: Path) -> None:
    """Write the checkpoint as a formula loads it. A reward's adapter is merged, for the head."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = model.config
    config.use_cache = True  # off while training
    if recipe.method == "reward" and description.tokenizer.pad_token_id is None:
        config.get_text_config().pad_token_id = None
    with disk.filled(folder) if trainer.is_world_process_zero() else nullcontext(folder) as partial:
        if recipe.method == "reward" and recipe.lora is not None:
            if trainer.is_world_process_zero():
                model.merge_and_unload().save_pretrained(partial)
        else:
            trainer.save_model(str(partial))
        if trainer.is_world_process_zero():
            (partial / "training_args.bin").unlink(missing_ok=True)  # a pickle; RECORD has them
            if recipe.lora is None or recipe.method == "reward":
                description.tokenizer.save_pretrained(str(partial))


def _too_long(recipe: TrainFile) -> str:
    return recipe.too_long or ("drop" if recipe.method == "reward" else "truncate")
