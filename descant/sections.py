"""The sections of a run file, each with its own keys. They check themselves and read nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator


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


class Data(Strict):
    """Where prompts come from.

    Attributes:
        path: a file: ``.jsonl``, ``.json``, ``.csv``, ``.tsv``, ``.parquet``, or text, a prompt a
            line.
        name: instead of a file, what ``datasets.load_dataset`` takes; with ``config``, ``split``
            and ``revision``.
        field: which holds the prompt: text, chat messages or token ids.
        id: the field that tells rows apart; left out, the number of the row.
        limit: rows that are read, after shuffling.
        shuffle: the seed of an order; left out, rows come as they are.
        malformed: what happens to a row without a usable prompt: ``error`` or ``skip``.
    """

    path: str | None = None
    name: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    field: str = "prompt"
    id: str | None = None
    limit: int | None = Field(default=None, ge=1)
    shuffle: int | None = None
    malformed: Literal["error", "skip"] = "error"

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
    """

    reward: str | None = None
    perplexity: str | None = None
    kl: str | None = None
    coherence: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Score:
        if len(self.said) != 1:
            raise ValueError("name one of reward, perplexity, kl and coherence")
        return self

    @property
    def said(self) -> dict[str, str]:
        """What is named, by its kind."""
        return {kind: name for kind, name in self if name is not None}


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
