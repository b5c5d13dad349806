"""What the two processes of a server say to each other: plain values, and nothing that runs.

A message goes to the decode process with a number. Its reply comes back under that number; so do
the pieces of the answers that a ``Submit`` asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...grammar import FormulaError

if TYPE_CHECKING:
    from ...models import ModelSpec


@dataclass(frozen=True)
class Compile:
    """Compile a formula.

    Attributes:
        formula: the number that it is known by from now on.
        text: what is compiled.
        params: its parameters and their values where a request gives none.
    """

    formula: int
    text: str
    params: Mapping[str, float]


@dataclass(frozen=True)
class Forget:
    """Let go of a formula, as soon as its last rows have ended."""

    formula: int


@dataclass(frozen=True)
class Start:
    """The first message: what a ``Service`` is made of, and the formulas of the run file."""

    specs: Mapping[str, ModelSpec]
    prompts: Mapping[str, str]
    slots: int
    max_model_len: int
    dtype: str | None
    device: str | None
    formulas: Sequence[Compile]


@dataclass(frozen=True)
class Submit:
    """Queue a request's rows; the reply is ``Queued``.

    Attributes:
        formula: its number.
        prompts: each gets as many rows as are asked for.
        arguments: those of ``generate``; without ``max_new_tokens``, as many as fit.
        most: of these.
        pieces: tell of every step, and not only at the end.
        since: when the request came, on ``time.perf_counter``, which is the system's.
    """

    formula: int
    prompts: Sequence[Any]
    arguments: Mapping[str, Any]
    most: int
    pieces: bool
    since: float


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for the message of this number any more, nor for what it asked for."""

    number: int


@dataclass(frozen=True)
class Score:
    """What a reward model says of each answer to its prompt: a float each."""

    model: str
    prompts: Sequence[Any]
    answers: Sequence[str]


@dataclass(frozen=True)
class Plan:
    """The plan of a formula, as text."""

    formula: int


@dataclass(frozen=True)
class Inspect:
    """Why each token of an answer was chosen, as plain data; the arguments of ``inspecting``."""

    formula: int
    prompt: Any
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Stop:
    """End."""


Message = Start | Compile | Forget | Submit | Cancel | Score | Plan | Inspect | Stop


@dataclass(frozen=True)
class Ready:
    """The reply to ``Start``: the names of the reward models that can score."""

    rewards: Sequence[str]


@dataclass(frozen=True)
class Queued:
    """The reply to ``Submit``: how many rows, and the tokens of their prompts."""

    rows: int
    prompt_tokens: int


@dataclass(frozen=True)
class Failed:
    """The reply to what could not be done: an error that can be raised again."""

    error: Exception


@dataclass(frozen=True)
class Told:
    """A piece of a row's answer: what has become certain since the piece before.

    Attributes:
        row: the number of the row in its request.
        text: without special tokens and without the stop string.
        token_ids: with the EOS where one ended the row.
        logprobs: one per token, where asked for.
        spelled: each token as text, where log-probabilities are asked for.
        finish_reason: None, or why this is the last.
        error: with the finish reason ``error``.
    """

    row: int
    text: str
    token_ids: list[int]
    logprobs: list[float] = field(default_factory=list)
    spelled: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    error: FormulaError | None = None


@dataclass
class Counts:
    """What is to be counted of a step.

    Attributes:
        waiting: rows without a slot.
        in_use: slots that are decoding.
        step: its seconds; None where there was none.
        tokens: that were drawn.
        first: for each row that got its first token, seconds since its request came.
        between: for each row that got another, seconds since the one before.
    """

    waiting: int = 0
    in_use: int = 0
    step: float | None = None
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Said:
    """All that the decode process has to say after a step, by the messages' numbers."""

    replies: Sequence[tuple[int, Any]]
    told: Sequence[tuple[int, Told]]
    counts: Counts
