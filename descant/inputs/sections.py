"""The sections of a run file, each with its own keys. They read no other file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator, model_validator

FREE = ("length", "distinct_1", "distinct_2", "rep_2", "rep_3", "rep_4", "diversity")
COSTS = ("tokens", "seconds", "tokens_per_second")
FORMULA = "formula"  # a table's other axis next to swept names; the name of a formula without one


class Strict(BaseModel):
    """A section in which an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Generate(Strict):
    """The arguments of ``Decoder.generate``; the seed has a default, so that runs repeat."""

    max_new_tokens: int = Field(default=128, ge=1)
    temperature: FiniteFloat | None = Field(default=None, ge=0)
    do_sample: bool | None = None
    seed: int = 0
    num_return_sequences: int = Field(default=1, ge=1)
    stop_strings: str | list[str] | None = None
    eos_token_id: int | list[int] | None = None
    batch_size: int = Field(default=32, ge=1)


class Rows(Strict):
    """What the data of run files and train files share.

    Attributes:
        split: of a dataset; ``revision`` likewise.
        limit: of the rows.
        bad_rows: at a row that cannot be used, ``error`` stops and ``skip`` logs it.
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


class ScoreSpec(Strict):
    """One score of a completion: exactly one of these keys, and ``between`` with ``recovered``.

    Attributes:
        reward: a declared reward model.
        perplexity: a declared language model.
        kl: the declared language model that the formula is compared with.
        coherence: a sentence-embedding model, a folder or a hub id.
        recovered: another score; this is the share of its gap ``between`` two formulas. It belongs
            to points, not to completions.
        between: the two ends of the gap: ``weak``, or ``arms:3`` for a point.
    """

    reward: str | None = None
    perplexity: str | None = None
    kl: str | None = None
    coherence: str | None = None
    recovered: str | None = None
    between: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ScoreSpec:
        if len(self._sources) != 1:
            raise ValueError("name one of reward, perplexity, kl, coherence and recovered")
        if (self.recovered is None) != (self.between is None):
            raise ValueError("write {recovered: a score, between: [a formula, another]}")
        return self

    @property
    def _sources(self) -> list[tuple[str, str]]:
        return [(kind, name) for kind, name in self if name is not None and kind != "between"]

    @property
    def source(self) -> tuple[str, str]:
        """The key that is set, and its value."""
        return self._sources[0]

    @property
    def model(self) -> str | None:
        """The declared model that scores, if one does."""
        return self.reward or self.perplexity or self.kl


class Front(Strict):
    """The front over a sweep's points.

    Attributes:
        objectives: scores to maximise; ``-toxic`` is one to minimise. Left out, the
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
    """A table of means.

    Attributes:
        rows: ``formula``, a swept name, or several of them: a row for each combination.
        columns: the same for columns; left out, a column for each of ``values``.
        values: scores, or ``seconds``, ``tokens`` and ``tokens_per_second``.
        formulas: which, in this order; left out, all.
        at: the values of the other swept names.
    """

    rows: list[str]
    columns: list[str] = Field(default_factory=list)
    values: list[str] = Field(min_length=1)
    formulas: list[str] = Field(default_factory=list)
    at: dict[str, float] = Field(default_factory=dict)

    @field_validator("rows", "columns", "values", "formulas", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        """A name is short for a list of one."""
        return [value] if isinstance(value, str) else value
