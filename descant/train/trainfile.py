"""Train files: what to train, on which data, and how. No file is read here.

Names are those of TRL, peft and transformers. ``training`` is passed to transformers'
``TrainingArguments`` unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeAlias

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError, model_validator

from ..grammar import did_you_mean
from ..inputs.sections import Rows, Strict
from ..inputs.settings import SettingsError
from ..models.checkpoint.spec import ModelSpec
from ..models.invalid import explain

Method: TypeAlias = Literal["arm", "dpo", "reward", "sft", "distill"]
PATHS = (
    "model",
    "data",
    "eval_data",
    "teacher",
)  # sections for which a text is short for their path
ONLY_OF = {
    "beta": ("arm", "dpo"), "length_normalization": ("arm",), "prefixes": ("reward",),
    "teacher": ("distill",), "loss": ("distill",), "check": ("arm", "dpo", "sft"),
}  # fmt: skip
_OURS = {
    "output_dir": "it is output",
    "remove_unused_columns": "the batches are made here",
    "resume_from_checkpoint": "the same command resumes where it stopped",
    "label_smoothing_factor": "the losses are the published ones",
}
NO_BASE = ("adapter", "on", "model", "label", "read", "tp_plan")  # what no base of a training has
_UNTRAINED = (*NO_BASE, "device", "device_map")


class TrainFileError(SettingsError):
    """A train file or its data that cannot be read, or that holds something it may not."""


class Data(Rows):
    """Where rows come from.

    Attributes:
        path: a file (.jsonl, .json, .csv, .parquet; JSON also as .gz), or the name of a dataset.
        name: the dataset's configuration; ``split`` and ``revision`` are its own words, too.
        dimension: for rows with two responses and two verdicts, which one counts:
            ``better_response_id`` or ``safer_response_id``.
    """

    path: str
    name: str | None = None
    dimension: Literal["better", "safer"] | None = None


class Lora(Strict):
    """A LoRA adapter, with peft's options that a row of a shared base can have."""

    r: int = Field(default=8, ge=1)
    lora_alpha: int | FiniteFloat = 16
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] | None = None
    use_rslora: bool = False


class Check(Strict):
    """What a trained model does to answers, measured when the training ends.

    Attributes:
        prompts: how many are answered, held-out ones where there are any.
        weights: of the model in the formula that it is for.
        max_new_tokens: of an answer.
    """

    prompts: int = Field(default=16, ge=1)
    weights: list[FiniteFloat] = Field(default=[0.5, 1.0, 2.0], min_length=1)
    max_new_tokens: int = Field(default=64, ge=1)


class TeacherFile(Strict):
    """The run file of a teacher, and the name of its formula where it has several."""

    path: str
    formula: str | None = None


class TrainFile(Strict):
    """A train file.

    Attributes:
        method: ``arm``, ``dpo``, ``reward``, ``sft`` or ``distill``.
        teacher: of ``distill``, a run file, whose formula answers the prompts of ``data`` that have
            no completion, as its ``generate`` says.
        loss: of ``distill``: ``kl`` to the teacher's distributions, or ``sft`` on its answers.
        model: the checkpoint to begin with, as in a run file; ``dtype`` is that of its weights
            (float32 if left out), ``template`` that of its prompts; ``quantization`` packs them
            under an adapter.
        data, eval_data: the rows; ``eval_share`` instead holds out a part of ``data``.
        lora: train an adapter; without it every weight is trained.
        beta: of ``arm`` and ``dpo``.
        length_normalization: of ``arm``: the mean over tokens, not the published sum.
        max_length: tokens of prompt and response; 1024, or what the model can read if that is less.
        too_long: ``truncate`` keeps the start of longer rows, ``drop`` drops them; ``drop`` is
            the default of ``reward`` and ``truncate`` of the others.
        prefixes: of ``reward``: the share of pairs that are cut to a random number of response
            tokens, for rewards of unfinished texts.
        training: transformers' ``TrainingArguments``.
        max_time: seconds after which the training stops; the same command goes on from there.
        check: of ``arm``, ``dpo`` and ``sft``: what the model does to answers in the end; null for
            nothing.
        output: the folder to write.
    """

    method: Method
    model: ModelSpec
    data: Data
    eval_data: Data | None = None
    eval_share: float = Field(default=0.0, ge=0, lt=1)
    lora: Lora | None = None
    teacher: TeacherFile | None = None
    loss: Literal["kl", "sft"] = "kl"
    beta: FiniteFloat = Field(default=0.1, gt=0)
    length_normalization: bool = False
    max_length: int | None = Field(default=None, ge=2)
    too_long: Literal["truncate", "drop"] | None = None
    prefixes: float = Field(default=0.0, ge=0, le=1)
    training: dict[str, Any] = Field(default_factory=dict)
    max_time: FiniteFloat | None = Field(default=None, gt=0)
    check: Check | None = Field(default_factory=Check)
    output: str

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        return with_paths(value)

    @model_validator(mode="after")
    def _checked(self) -> TrainFile:
        for key, methods in ONLY_OF.items():
            if key in self.model_fields_set and self.method not in methods:
                raise ValueError(f"{key} is an option of {' and '.join(methods)} alone")
        if self.method == "distill" and self.teacher is None:
            raise ValueError("distill needs a teacher: the path of a run file")
        if self.eval_data is not None and self.eval_share:
            raise ValueError("give eval_data or eval_share, not both")
        for key in _UNTRAINED:
            if key in self.model.model_fields_set and getattr(self.model, key) is not None:
                raise ValueError(f"model.{key} is not of a model that is trained")
        if self.model.quantization is not None and (self.lora is None or self.method == "reward"):
            cure = "an adapter is trained on them: give lora"
            cure = cure if self.lora is None else "a reward model is saved whole, with its head"
            raise ValueError(f"model.quantization: packed weights do not learn; {cure}")
        self._check_training(training_fields() if self.training else {})
        return self

    def _check_training(self, kinds: Mapping[str, Any]) -> None:
        for key, value in self.training.items():
            if key in _OURS:
                raise ValueError(f"training.{key} cannot be set: {_OURS[key]}")
            if key not in kinds:
                raise ValueError(f"there is no option training.{key}; {did_you_mean(key, kinds)}")
            kind = kinds[key]
            try:
                number = TypeAdapter(kind).validate_python(value)
            except ValidationError as error:
                problem = explain(error, kind, f"training.{key}")
                raise ValueError(f"{problem}, and is {value!r}") from None
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"training.{key} is {value}, and must be a finite number")


def with_paths(value: Any) -> Any:
    """``model: org/name`` is short for ``model: {path: …}``; so with the data."""
    if not isinstance(value, dict):
        return value
    return value | {k: {"path": value[k]} for k in PATHS if isinstance(value.get(k), str)}


@cache
def training_fields() -> dict[str, Any]:
    """The fields of transformers' ``TrainingArguments``, and the types of numbers and flags."""
    from dataclasses import fields

    from transformers import TrainingArguments

    types: dict[str, Any] = {kind.__name__: kind for kind in (int, float, bool)}
    types |= {f"{name} | None": kind | None for name, kind in types.items()}
    options = [item for item in fields(TrainingArguments) if item.init]
    names = {item.name: str(getattr(item.type, "__name__", item.type)) for item in options}
    return {key: types.get(name, Any) for key, name in names.items()}
