"""The sections of a run file, each with its own keys. They check themselves and read nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator

FREE = ("length", "distinct_1", "distinct_2", "rep_2", "rep_3", "rep_4", "diversity")
COSTS = ("tokens", "seconds", "tokens_per_second")
FORMULA = "formula"  # what a table may go over, beside swept names


class Strict(BaseModel):
    """A section in which an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Generate(Strict):
    """The arguments of ``Decoder.generate``; a run is reproducible unless it says otherwise."""

    max_new_tokens: int = Field(default=128, ge=1)
    temperature: FiniteFloat | None = Field(default=None, ge=0)
    do_sample: bool | None = None
    seed: int = 0
    num_return_sequences: int = Field(default=1, ge=1)
    stop_strings: str | list[str] | None = None
    eos_token_id: int | list[int] | None = None
    batch_size: int = Field(default=32, ge=1)


class Rows(Strict):
    """What the data of run files and of train files have in common.

    Attributes:
        split: of a dataset; ``revision`` likewise.
        limit: rows that are read.
        bad_rows: what becomes of a row that cannot be used: ``error`` stops at it, ``skip`` counts
            it.
    """

    split: str = "train"
    revision: str | None = None
    limit: int | None = Field(default=None, ge=1)
    bad_rows: Literal["error", "skip"] = "error"

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, value: object) -> object:
        if isinstance(value, dict) and "malformed" in value:
            raise ValueError("there is no option malformed; it is bad_rows")
        return value


class Data(Rows):
    """Where prompts come from.

    Attributes:
        path: a file: ``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``, or text, a prompt a
            line.
        name: instead of a file, what ``datasets.load_dataset`` takes; with ``config``.
        field: which holds the prompt: text, chat messages or token ids.
        id: the field that tells rows apart; left out, the number of the row.
        shuffle: the seed of an order, before ``limit``; left out, rows come as they are.
    """

    path: str | None = None
    name: str | None = None
    config: str | None = None
    field: str = "prompt"
    id: str | None = None
    shuffle: int | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.path is None) == (self.name is None):
            raise ValueError("give a path, or the name of a dataset")
        return self

    @property
    def source(self) -> str:
        """The path or the name."""
        return self.path or self.name or ""


class Score(Strict):
    """One measure of a completion: exactly one of these names what says it.

    Attributes:
        reward: a declared reward model.
        perplexity: a declared language model.
        kl: the declared language model that the formula is compared with.
        coherence: a sentence-embedding model, a folder or a hub id.
        recovered: another score, of which this is a share of the way ``between`` two formulas. It
            is said of points, and not of completions.
        between: where the way begins and where it ends: ``weak``, or ``arms:3`` for a point.
    """

    reward: str | None = None
    perplexity: str | None = None
    kl: str | None = None
    coherence: str | None = None
    recovered: str | None = None
    between: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _one(self) -> Score:
        if len(self.said) != 1:
            raise ValueError("name one of reward, perplexity, kl, coherence and recovered")
        if (self.recovered is None) != (self.between is None):
            raise ValueError("write {recovered: a score, between: [a formula, another]}")
        return self

    @property
    def said(self) -> dict[str, str]:
        """What is named, by its kind."""
        return {kind: name for kind, name in self if name is not None and kind != "between"}

    @property
    def model(self) -> str | None:
        """The declared model that says it, if one does."""
        return self.reward or self.perplexity or self.kl


class Front(Strict):
    """What a front is made of.

    Attributes:
        objectives: scores, the larger the better; ``-toxic`` where the smaller is. Left out, the
            rewards among the scores.
        reference: the point that hypervolume is measured from, by objective; left out, the worst of
            every objective over all points of the run.
        preference: the weights of the objectives as a sum, ``(1-a)*help + a*harm``; left out, the
            names of the sweep's simplex, in the order of the objectives.
    """

    objectives: list[str] | None = Field(default=None, min_length=2, max_length=3)
    reference: dict[str, FiniteFloat] | None = None
    preference: str | None = None


class Table(Strict):
    """A table of means, with a row and a column for each of what it goes over.

    Attributes:
        rows: ``formula``, a swept name, or several of them.
        columns: the same; left out, a column for each value.
        values: scores, or ``seconds``, ``tokens`` and ``tokens_per_second``.
        formulas: which, in this order; left out, all.
        at: the values of swept names that it does not go over.
    """

    rows: list[str]
    columns: list[str] = Field(default_factory=list)
    values: list[str] = Field(min_length=1)
    formulas: list[str] = Field(default_factory=list)
    at: dict[str, float] = Field(default_factory=dict)

    @field_validator("rows", "columns", "values", "formulas", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        """A name is short for a list of one."""
        return [value] if isinstance(value, str) else value
