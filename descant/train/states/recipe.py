"""Train files of what is learnt from hidden states. No file is read here."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, field_validator, model_validator

from ...inputs.sections import Strict
from ...models.checkpoint.spec import ModelSpec
from ..trainfile import NO_BASE, Data, with_paths

_RANGE = re.compile(r"([0-9]{1,4}) *- *([0-9]{1,4})")
Layer = Annotated[int, Field(ge=0)]


class StatesFile(Strict):
    """What a vector's and a probe's train file share.

    Attributes:
        model: the base, as in a run file; it is read as it is when decoding, in its own ``dtype``.
        data: the rows.
        max_length: tokens of prompt and response; 1024, or what the model can read if that is less.
        too_long: ``drop`` drops longer rows, ``truncate`` keeps their start.
        batch_size: texts per forward.
        output: the folder to write.
    """

    model: ModelSpec
    data: Data
    max_length: int | None = Field(default=None, ge=2)
    too_long: Literal["truncate", "drop"] = "drop"
    batch_size: int = Field(default=8, ge=1)
    output: str

    @model_validator(mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        return with_paths(value)

    @model_validator(mode="after")
    def _of_a_base(self) -> StatesFile:
        for key in NO_BASE:
            if key in self.model.model_fields_set and getattr(self.model, key) is not None:
                raise ValueError(f"model.{key} is not of a base whose hidden states are read")
        return self


class VectorFile(StatesFile):
    """A train file of a steering vector, from pairs.

    Attributes:
        direction: ``mean``, the mean of chosen minus rejected; ``pca``, its first principal
            component.
        layers: decoder layers counted from 0: a number, a list, or first-last, both included;
            all of them if left out.
        tokens: whose hidden states: ``last``, the last token of each text; ``answer``, the mean
            over the response's.
        normalize: give each direction the length 1; of ``mean``, for ``pca`` always does.
    """

    method: Literal["vector"] = "vector"
    direction: Literal["mean", "pca"] = "mean"
    layers: list[Layer] | None = None
    tokens: Literal["last", "answer"] = "last"
    normalize: bool | None = None

    @field_validator("layers", mode="before")
    @classmethod
    def _range(cls, value: Any) -> Any:
        if isinstance(value, str):
            if (ends := _RANGE.fullmatch(value)) is None or int(ends[1]) > int(ends[2]):
                raise ValueError(f"{value!r:.60} is no range of layers; write first-last: 8-20")
            return [*range(int(ends[1]), int(ends[2]) + 1)]
        return [value] if isinstance(value, int) else value

    @model_validator(mode="after")
    def _checked(self) -> VectorFile:
        layers = self.layers
        if layers is not None and not 0 < len(layers) == len({*layers}):
            raise ValueError("layers names no layer, or one twice")
        if self.direction == "pca" and self.normalize is False:
            raise ValueError("normalize: false is of direction: mean; those of pca have length 1")
        return self


class ProbeFile(StatesFile):
    """A train file of a probe: a linear head on the hidden state of a text's last token.

    Attributes:
        layer: the decoder layer whose output it reads, counted from 0.
        positive: the label that it gives high numbers; 1 or true if left out.
        l2: the penalty ``l2/2 |w|^2`` beside the sum of the losses, on standardised states.
        eval_data: labelled rows to measure on; else ``eval_share`` of each label's rows in
            ``data``, drawn by ``seed``.
    """

    method: Literal["probe"] = "probe"
    layer: int = Field(ge=0)
    positive: str | int | bool | None = None
    l2: FiniteFloat = Field(default=1.0, gt=0)
    eval_data: Data | None = None
    eval_share: float = Field(default=0.2, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _checked(self) -> ProbeFile:
        if self.eval_data is not None and "eval_share" in self.model_fields_set:
            raise ValueError("give eval_data or eval_share, not both")
        return self
