"""The sections of a run file, each with its own keys. They read no other file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ..formula.algebra.drafting import LONGEST_DRAFT
from ..formula.words.signature import MOST
from ..models.functions import is_python

FREE = ("length", "distinct_1", "distinct_2", "rep_2", "rep_3", "rep_4", "diversity")
COSTS = ("tokens", "seconds", "tokens_per_second")
FORMULA = "formula"  # a table's other axis next to swept names; the name of a formula without one


HELD_OUT, GRID = "held_out", "grid"  # of a fit: the names of rows that are no trials


def _types(annotation: Any) -> set[Any]:
    """The types that an annotation names."""
    return {annotation}.union(*map(_types, get_args(annotation)))


class Strict(BaseModel):
    """A section in which an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's true is 1 to Python, and no number to anybody else."""
        types = _types(cls.model_fields[str(info.field_name)].annotation)
        items = value.values() if isinstance(value, dict) else value
        listed = items if isinstance(value, (dict, list)) else [value]
        truth = any(isinstance(item, bool) for item in listed)
        if truth and types & {int, float} and not types & {bool, Any}:
            raise ValueError("true and false are no numbers")
        return value


class Generate(Strict):
    """The arguments of ``Decoder.generate``; the seed has a default, so that runs repeat."""

    max_new_tokens: int = Field(default=128, ge=1)
    temperature: FiniteFloat | None = Field(default=None, ge=0, le=MOST)
    do_sample: bool | None = None
    seed: int = 0
    num_return_sequences: int = Field(default=1, ge=1)
    stop_strings: str | list[str] | None = None
    eos_token_id: int | list[int] | None = None
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0)
    logprobs_mode: Literal["raw_logprobs", "processed_logprobs"] = "raw_logprobs"
    sample_components: bool = False
    draft: str | None = None  # a formula over the declared models, or "prompt", or "auto"
    draft_length: Annotated[int, Field(ge=1, le=LONGEST_DRAFT)] | Literal["adaptive"] = "adaptive"
    structured_outputs: dict[str, Any] | None = None  # vLLM's form, or a declared name in it
    chat_template_kwargs: dict[str, Any] | None = None  # variables of the chat templates
    top_k: int | None = Field(default=None, ge=-1)  # these are stages of every request
    top_p: FiniteFloat | None = Field(default=None, gt=0, le=1)
    min_p: FiniteFloat | None = Field(default=None, ge=0, le=1)
    repetition_penalty: FiniteFloat | None = Field(default=None, gt=0, le=MOST)
    presence_penalty: FiniteFloat | None = None
    frequency_penalty: FiniteFloat | None = None
    no_repeat_ngram_size: int | None = Field(default=None, ge=0)
    typical_p: FiniteFloat | None = Field(default=None, gt=0, le=1)
    epsilon_cutoff: FiniteFloat | None = Field(default=None, ge=0, le=1)
    eta_cutoff: FiniteFloat | None = Field(default=None, ge=0, le=1)
    top_n_sigma: FiniteFloat | None = None
    xtc_probability: FiniteFloat | None = Field(default=None, ge=0, le=1)
    xtc_threshold: FiniteFloat | None = Field(default=None, ge=0, le=1)
    dry_multiplier: FiniteFloat | None = Field(default=None, ge=0)
    dry_base: FiniteFloat | None = Field(default=None, ge=1)
    dry_allowed_length: int | None = Field(default=None, ge=1)
    dry_sequence_breakers: list[str] | None = None
    logit_bias: dict[Annotated[int, Field(ge=0)], FiniteFloat] | None = None
    min_tokens: int | None = Field(default=None, ge=0)
    ignore_eos: bool = False
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    batch_size: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _check_top(self) -> Generate:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs come with logprobs: true")
        if self.sample_components:
            if self.do_sample is False or self.temperature not in (None, 1):
                raise ValueError("sample_components: true is for temperature 1; leave that out")
            if self.logprobs:
                why = "logprobs are of the whole mixture, and one component is run"
                raise ValueError(f"{why} with sample_components: true; leave one of them out")
            if self.draft is not None:
                why = "a draft is verified by the whole mixture, and one component is run"
                raise ValueError(f"{why} with sample_components: true; leave one of them out")
        if self.draft is None and self.draft_length != "adaptive":
            raise ValueError("draft_length says how many tokens draft proposes; give draft, too")
        return self


class Rows(Strict):
    """What the data of run files and train files share."""

    split: str = "train"  # of a dataset
    revision: str | None = None  # of a dataset
    limit: int | None = Field(default=None, ge=1)
    bad_rows: Literal["error", "skip"] = "error"  # an unusable row stops, or is logged

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, value: object) -> object:
        if isinstance(value, dict) and "malformed" in value:
            raise ValueError("there is no option malformed; it is bad_rows")
        return value


class Data(Rows):
    """Where prompts come from: a file or a dataset."""

    path: str | None = None  # .jsonl, .json, .csv, .tsv, .parquet, or text, a prompt a line
    name: str | None = None  # what ``datasets.load_dataset`` takes
    config: str | None = None  # of a dataset
    field: str = "prompt"  # which holds the prompt: text, chat messages or token ids
    chat: bool = False  # whether a text is one user message
    id: str | None = None  # the field that tells rows apart; left out, the number of the row
    shuffle: int | None = None  # the seed of an order, before ``limit``; left out, as they are

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

    ``recovered`` is the share of another score's gap; it belongs to points, not to completions.
    """

    reward: str | None = None  # a declared reward model, or an expression over several
    perplexity: str | None = None  # a declared language model
    kl: str | None = None  # the declared language model that the formula is compared with
    coherence: str | None = None  # a sentence-embedding model, a folder or a hub id
    recovered: str | None = None  # another score
    between: tuple[str, str] | None = None  # the ends of the gap: ``weak``, or ``arms:3``

    @model_validator(mode="after")
    def _one_source(self) -> ScoreSpec:
        if len(self._sources) != 1:
            raise ValueError("name one of reward, perplexity, kl, coherence and recovered")
        if (self.recovered is None) != (self.between is None):
            raise ValueError("write {recovered: a score, between: [a formula, another]}")
        if self.reward is not None and is_python(self.reward):
            cure = "in Python: descant.score(descant.reward(fn), prompts, texts)"
            raise ValueError(f"{self.reward} is Python code, which nothing here runs; {cure}")
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
        """The declared model that scores, if one does by itself; not of a reward expression."""
        name = self.reward if self.reward is None or self.reward.isidentifier() else None
        return name or self.perplexity or self.kl


class Front(Strict):
    """The front over a sweep's points.

    Attributes:
        objectives: scores to maximise, ``-toxic`` to minimise; left out, the rewards among them.
        reference: where hypervolume is measured from; left out, the worst of every objective.
        preference: the weights of the objectives as a sum, ``(1-a)*help + a*harm``; left out, the
            names of the sweep's simplex, in the order of the objectives.
    """

    objectives: list[str] | None = Field(default=None, min_length=2, max_length=3)
    reference: dict[str, FiniteFloat] | None = None
    preference: str | None = None


class Effects(Strict):
    """Effect sizes: the point that all others are set against.

    ``against`` is a formula, or ``arms:3`` where it has several points; left out, the formula
    called ``base``, else the first, at its first point.
    """

    against: str | None = None


class Table(Strict):
    """A table of means: a row for each combination of ``rows``, and columns likewise."""

    rows: list[str]  # ``formula`` and swept names
    columns: list[str] = Field(default_factory=list)  # left out, one for each of ``values``
    values: list[str] = Field(min_length=1)  # scores, or what a point costs
    formulas: list[str] = Field(default_factory=list)  # which, in this order; left out, all
    at: dict[str, float] = Field(default_factory=dict)  # the values of the other swept names

    @field_validator("rows", "columns", "values", "formulas", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        """A name is short for a list of one."""
        return [value] if isinstance(value, str) else value
