"""Messages between the two processes of a server: plain values, and nothing that runs.

A command goes to the decode process with a number. Its reply carries the same number, and so do
the row updates of a ``Submit``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...formula import Plan
from ...formula.request_fields import NO_FIELDS, Group
from ...inputs.runfile import RunFile
from ...models import ModelSpec
from .limits import Limits


@dataclass(frozen=True)
class FormulaEncoders:
    """How a formula reads prompts.

    Attributes:
        pickled: its ``PromptEncoders``; None where some cannot leave the process.
        parts: their tokenizers, pickled, by their numbers.
    """

    pickled: bytes | None
    parts: Mapping[int, bytes]


@dataclass(frozen=True)
class Compile:
    """Compile a formula, which later commands name by its number; the reply is its encoders.

    Attributes:
        plan: of the formula, where it is known; the decode process plans none then.
        formula: the number.
        text: the formula.
        params: its parameters, with their values where a request gives none.
        fields: which stages of requests it has: ``Group``.
        draft: who proposes its tokens: a formula, ``"prompt"``, ``"auto"`` or nobody.
    """

    formula: int
    text: str
    params: Mapping[str, float]
    fields: Group = NO_FIELDS
    draft: str | None = None
    plan: Plan | None = None


@dataclass(frozen=True)
class Forget:
    """Free a formula as soon as its last rows have ended."""

    formula: int


@dataclass(frozen=True)
class AddModel:
    """Declare another model, for formulas to come."""

    name: str
    spec: ModelSpec


@dataclass(frozen=True)
class RemoveModel:
    """Declare a model no more, as soon as the formulas that have it are forgotten."""

    name: str


@dataclass(frozen=True)
class Started:
    """The reply to ``Start``.

    Attributes:
        encoders: per formula, how it reads prompts, for those who read them elsewhere.
        rewards: the reward models that can score.
        max_lengths: per formula, the tokens of the longest text that all its models can read.
    """

    rewards: Sequence[str]
    max_lengths: Mapping[int, int | None]
    encoders: Mapping[int, FormulaEncoders]


@dataclass(frozen=True)
class Start:
    """The first command: what to serve; the reply is ``Started``.

    Attributes:
        imports: the modules with words of one's own, as this process was started with them.
    """

    run: RunFile
    limits: Limits
    formulas: Sequence[Compile]
    imports: Sequence[str] = ()


@dataclass(frozen=True)
class Submit:
    """Queue the rows of a request; the reply is ``Queued``.

    Attributes:
        client: whose it is, by a name that tells clients apart and nothing else.
        prompts: each gets ``num_return_sequences`` rows.
        arguments: those of ``generate``; without ``max_new_tokens``, as many tokens as fit.
        max_tokens: the most that fit.
        stream: send an update after every step, and not only at the end.
        arrival_time: of the request, on ``time.perf_counter``, which both processes share.
        chat: what a chat asks of the text of its answers (``ChatQuery``); None for other requests.
    """

    formula: int
    prompts: Sequence[Any]
    arguments: Mapping[str, Any]
    max_tokens: int
    stream: bool
    arrival_time: float
    chat: Any = None
    client: Hashable = None


@dataclass(frozen=True)
class Cancel:
    """Abort the command of this number, and the rows that it queued."""

    number: int


@dataclass(frozen=True)
class ScoreJob:
    """Score each answer with a reward model, for a client; the reply is a float for each."""

    model: str
    prompts: Sequence[Any]
    answers: Sequence[str]
    client: Hashable = None


@dataclass(frozen=True)
class ReadPrompts:
    """Say what a formula reads of prompts; the reply is a ``PromptReading`` for each.

    Attributes:
        params: values of its parameters.
        top: have log-probabilities, and so many of the best tokens with each; None for none.
        most: tokens that are kept of a longer prompt; None for all.
        side: where a longer one is cut, ``left`` or ``right``.
    """

    formula: int
    prompts: Sequence[Any]
    params: Mapping[str, float]
    top: int | None = None
    most: int | None = None
    side: str = "left"


@dataclass(frozen=True)
class TokenizeJob:
    """Encode a text by a formula's tokenizer, or what it reads of messages; ids and their names.

    Attributes:
        special: whether a text gets the tokens that begin one.
    """

    formula: int
    prompt: Any
    special: bool


@dataclass(frozen=True)
class DetokenizeJob:
    """Decode a formula's tokens; the reply is their text, with the names of special ones."""

    formula: int
    token_ids: Sequence[int]


@dataclass(frozen=True)
class PlanJob:
    """Print the plan of a formula; the reply is its text."""

    formula: int


@dataclass(frozen=True)
class InspectJob:
    """Explain every token of an answer; takes the arguments of ``Decoder.inspecting``."""

    formula: int
    prompt: Any
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Stop:
    """End the decode process."""


Command = (
    Start | Compile | Forget | Submit | Cancel | ReadPrompts | TokenizeJob | DetokenizeJob
    | ScoreJob | PlanJob | InspectJob | AddModel | RemoveModel | Stop
)  # fmt: skip
TopToken = tuple[str, bytes, float, int]  # as a string, its bytes, its log-probability, its id


@dataclass(frozen=True)
class Queued:
    """The reply to ``Submit``: the number of rows, and the tokens of the prompts.

    For a chat, also what its answers have in them (``ChatMarks``).
    """

    rows: int
    prompt_tokens: int
    chat: Any = None


@dataclass(frozen=True)
class PromptReading:
    """What a formula reads of a prompt.

    Attributes:
        token_ids: as the term reads them whose text an answer continues.
        prompt_tokens: of the longest prompt among its terms.
        is_cut: whether tokens were left out.
        text: of the tokens, without special ones.
        tokens, token_bytes: each as a string by itself, and the bytes that it adds to the text.
        logprobs: how likely each is after those before; 0 for the first, which follows nothing.
        ranks: how many tokens are as likely or more; 0 for the first.
        top_logprobs: at each token, the most likely ones, the best first.
    """

    token_ids: list[int]
    prompt_tokens: int
    is_cut: bool = False
    text: str = ""
    tokens: Sequence[str] = ()
    token_bytes: Sequence[bytes] = ()
    logprobs: Sequence[float] = ()
    ranks: Sequence[int] = ()
    top_logprobs: Sequence[Sequence[TopToken]] = ()


@dataclass(frozen=True)
class Failed:
    """The reply to a command that failed: an error that can be raised again."""

    error: Exception


class InternalError(RuntimeError):
    """A bug: what no user can do anything about, as it goes from one process to the other.

    Args:
        problem: the type of the error and its first line.
        id: that the client and the log have.
        trace: of where it was raised, for the log.
    """

    def __init__(self, problem: str, id: str, trace: str) -> None:
        super().__init__(problem, id, trace)
        self.problem, self.id = problem, id
        self.__notes__ = [trace]

    def __str__(self) -> str:
        return self.problem


@dataclass(frozen=True)
class RowUpdate:
    """What one row has gained since its last update.

    Attributes:
        row: the number of the row in its request.
        text: without special tokens and without the stop string.
        token_ids: with the EOS where one ended the row.
        logprobs: one per token, where requested.
        tokens: each token as a string by itself, where logprobs are requested.
        token_bytes: the bytes that it adds to the text, likewise.
        top_logprobs: for each token, the most likely ones, the best first.
        finish_reason: None, or why this update is the last.
        error: with the finish reason ``error``.
        cached_tokens: with the last update of one row of each prompt, how many of the prompt's
            tokens were in the prefix cache.
        log_weight, log_normalizer: as in a completion, with the last update of a row.
        reasoning_tokens: of the tokens, how many are of a thought.
    """

    row: int
    text: str
    token_ids: list[int]
    logprobs: list[float] = field(default_factory=list)
    tokens: Sequence[str] = ()
    token_bytes: Sequence[bytes] = ()
    top_logprobs: Sequence[Sequence[TopToken]] = ()
    finish_reason: str | None = None
    error: Exception | None = None
    cached_tokens: int = 0
    log_weight: float | None = None
    log_normalizer: float | None = None
    reasoning_tokens: int = 0


@dataclass
class StepCounts:
    """What the metrics count of one step.

    Attributes:
        waiting: rows without a slot.
        running: slots that decode.
        seconds: of the step; None where there was none.
        tokens: generated in it.
        first_token: seconds from the arrival of a request to the first token of each row.
        next_token: seconds since the last token, for each row that got another.
        prefix_cache_queries: tokens of prompts that were looked up in prefix caches.
        prefix_cache_hits: of these, found there.
        preempted: rows that had to wait again, for others needed their memory.
        spec_decode: drafts that were verified, their tokens, and how many of these were accepted.
    """

    waiting: int = 0
    running: int = 0
    seconds: float | None = None
    tokens: int = 0
    first_token: list[float] = field(default_factory=list)
    next_token: list[float] = field(default_factory=list)
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    preempted: int = 0
    spec_decode: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class StepUpdate:
    """All that the decode process sends after a step, by the numbers of the commands.

    Attributes:
        failures: what the step has failed with for some rows, or once; the others went on.
    """

    replies: Sequence[tuple[int, Any]]
    rows: Sequence[tuple[int, RowUpdate]]
    counts: StepCounts
    failures: Sequence[Exception] = ()
