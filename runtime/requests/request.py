"""Requests and completions: one request per row, one completion per request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple, TypeAlias

from ...errors import ArgumentError
from ...formula.nodes import StageAddress
from ...models.functions import UserPrompt

Reading: TypeAlias = "Sequence[int] | str | UserPrompt"  # what a term reads before the answer
RAW, PROCESSED = "raw_logprobs", "processed_logprobs"  # as vLLM calls them
ADAPTIVE = "adaptive"
MOST_ADAPTIVE = 8  # tokens of a draft, where their number is adapted


@dataclass(frozen=True)
class DraftOptions:
    """How a request is drafted.

    Attributes:
        source: ``"prompt"``, ``"auto"`` or a formula.
        length: tokens that are proposed at once, at most; None for as many as pay.
    """

    source: str
    length: int | None = None

    @property
    def longest(self) -> int:
        """Tokens that are proposed at once, at most."""
        return MOST_ADAPTIVE if self.length is None else self.length


class TextOptions(NamedTuple):
    """What of an answer is its text.

    Attributes:
        stop_token_ids: ids that end it and are no text, besides those of an end of text.
        include_stop: whether what stopped it is text, a string or a token.
        skip_special_tokens: whether special tokens are no text.
        min_tokens: tokens in whose text no stop string is looked for.
    """

    stop_token_ids: frozenset[int] = frozenset()
    include_stop: bool = False
    skip_special_tokens: bool = True
    min_tokens: int = 0


ALL_TEXT = TextOptions()


@dataclass(frozen=True)
class Request:
    """One row to decode.

    Attributes:
        index: its number among the call's rows.
        prompt: of the caller.
        prompts: per term of the scores, the ids that it reads.
        rewards: per stage and reward model, what it reads.
        values: the plan's numbers for this row, and those of its draft plans.
        params: the parameters' values.
        temperature: 0 takes the best token.
        key: of its noise (``noise.seed_key``).
        max_new_tokens: at most.
        eos: ids that end it.
        stops: strings that end it.
        rooms: for each term of another vocabulary, the ids that it reads for each token, and how
            many tokens it has room for.
        logprobs: whether to return its tokens' log-probabilities.
        top_logprobs: how many of the most likely tokens to return with each.
        logprobs_mode: of what: the formula with its own stages, or what tokens are drawn from.
        draft: who proposes its tokens; None where nobody does.
        draft_prompts: per term that only drafts have, the ids that it reads.
        sample_components: whether each step draws one component of the final mixture, and the token
            from that alone.
        return_particles: whether the completion has all particles of the search.
        constraint: what its answer is to fit, before the formula's own stages (``Constraint``);
            or None.
        logit_bias: what is added to the score of each token, before the formula's own stages.
        text: what of its answer is text.
        dry_sequence_breakers: strings that end a match of ``dry``.
        states: what the formula's processors and constraints keep for its texts (``RowStates``,
            ``AnswerStates``); shared by its rows in a search.
    """

    index: int
    prompt: Any
    prompts: Sequence[Sequence[int]]
    rewards: Mapping[StageAddress, Sequence[Reading]]
    values: Sequence[float]
    params: Mapping[str, float]
    temperature: float
    key: tuple[int, int]
    max_new_tokens: int
    eos: frozenset[int]
    stops: tuple[str, ...] = ()
    rooms: Sequence[tuple[Sequence[Sequence[int]], int]] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    logprobs_mode: str = RAW
    draft: DraftOptions | None = None
    draft_prompts: Sequence[Sequence[int]] = ()
    sample_components: bool = False
    return_particles: bool = False
    constraint: Any = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    text: TextOptions = ALL_TEXT
    dry_sequence_breakers: Sequence[str] = ()
    states: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def longest_term(self) -> int:
        """The term of the scores with the longest prompt, by its index; the first of such."""
        return max(range(len(self.prompts)), key=lambda term: len(self.prompts[term]))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt; text is none, for no cache holds it as such."""
        read = [*self.prompts, *(prompt for each in self.rewards.values() for prompt in each)]
        return max(length_of(prompt) for prompt in read)

    @property
    def longest_read(self) -> int:
        """The same, with the prompts of terms that only drafts have."""
        return max(self.longest, *map(len, self.draft_prompts), 0)


def length_of(reading: Reading) -> int:
    """Tokens of what a term reads before the answer; text is none, and neither is a prompt."""
    return 0 if isinstance(reading, (str, UserPrompt)) else len(reading)


class TokenLogprobs(NamedTuple):
    """What a drawn token was worth: its log-probability, and those of the best tokens."""

    logprob: float
    top: list[tuple[int, float]]


@dataclass
class Completion:
    """The answer to a request.

    Attributes:
        text: without special tokens, and without the stop string that ended it; None where the
            models have no tokenizer.
        token_ids: the generated ids, with the EOS where one ended the row.
        finish_reason: ``"eos"``, ``"stop"`` (a stop string) or ``"length"``.
        params: the parameters' values for this row.
        seconds: from the row's admission to its end.
        prompt: of the caller.
        cached_tokens: of the longest prompt among the formula's terms, how many tokens were found
            in the prefix cache, and not read again.
        logprobs: of each token under the formula with its own stages, as ``loglikelihood`` gives
            them; with ``processed_logprobs``, in what it was drawn from, which at temperature 0 is
            that token alone: 0. None unless requested.
        top_logprobs: for each token the most likely ones, the best first: ids and their
            log-probabilities; fewer where the formula excludes the others. None unless requested.
        log_weight: of a particle, the logarithm of its weight; None where none are drawn.
        log_normalizer: the logarithm of the mean of all particles' weights, whose exponential is an
            unbiased estimate of the sum of ``q(y)*exp(r(y))`` over all answers y.
        particles: all of them, in the order of their rows. None unless requested.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: str
    params: dict[str, float]
    seconds: float
    prompt: Any = field(default=None, repr=False)
    cached_tokens: int = field(default=0, repr=False, kw_only=True)
    logprobs: list[float] | None = field(default=None, repr=False)
    top_logprobs: list[dict[int, float]] | None = field(default=None, repr=False)
    log_weight: float | None = field(default=None, repr=False, kw_only=True)
    log_normalizer: float | None = field(default=None, repr=False, kw_only=True)
    particles: list[Completion] | None = field(default=None, repr=False, kw_only=True)

    def _repr_html_(self) -> str:
        """A table of two columns, for a notebook."""
        params = ", ".join(f"{name} = {value:g}" for name, value in self.params.items())
        answer = self.token_ids if self.text is None else self.text
        ended = f"{self.finish_reason}, {len(self.token_ids)} tokens, {self.seconds:.2f} s"
        lines = {"prompt": self.prompt, "params": params, "answer": answer, "ended": ended}
        cell = '<td style="text-align:left;white-space:pre-wrap">'
        rows = (f"<tr>{cell}{name}</td>{cell}{escape(str(value))}</td></tr>"
                for name, value in lines.items() if value)  # fmt: skip
        return f"<table>{''.join(rows)}</table>"


def check_ids(ids: Sequence[int], vocabulary: int, where: str, tokenizer: Any = None) -> None:
    """Refuse ids beyond the vocabulary, by a ValueError that names the first."""
    for token in ids:
        if not 0 <= token < vocabulary:
            size = f"the vocabulary has {vocabulary} tokens"
            name = tokenizer.convert_ids_to_tokens(token) if tokenizer and token >= 0 else None
            called = f" ({name!r})" if name else ""
            raise ArgumentError(f"the {where} has the token id {token}{called}, and {size}")
