"""The stages of the language: each is a frozen dataclass, and its fields are its signature.

What a stage does to scores lives in the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ...grammar.frozen import Frozen
from .signature import (
    Shift,
    Signature,
    by_token,
    choice,
    label,
    number,
    optional_number,
    pair,
    reward,
    string,
)

STAGES: dict[str, type[Stage]] = {}


@dataclass(frozen=True)
class Stage(Signature):
    """One step of the chain after the scores.

    Attributes:
        why_last: why it stands after the last bar of a formula alone, and not in parentheses.
    """

    table = STAGES
    why_last: ClassVar[str] = ""


@dataclass(frozen=True)
class Rerank(Stage, name="rerank"):
    """Keeps the k best tokens and adds `w·r([x, v])` to each (ARGS, Algorithm 1)."""

    on_shift = Shift.PASSED
    reward: Any = reward()
    k: Any = number(10, static=True, low=1, integer=True, tokens=True)
    w: Any = number(1)
    norm: str = choice("none", "center", "minmax", "prefix")
    clamp: Any = pair()
    keep: str = choice("candidates", "all")
    label: Any = label()
    # None in a plan: with any, it is a ``Lookahead``
    ahead: Any = number(0, static=True, low=0, integer=True)


@dataclass(frozen=True)
class TopK(Stage, name="top_k"):
    """Masks every token below the k-th best (transformers' TopKLogitsWarper)."""

    on_shift = Shift.PASSED
    k: Any = number(low=1, integer=True, tokens=True)


@dataclass(frozen=True)
class TopP(Stage, name="top_p"):
    """Keeps the fewest tokens whose probabilities reach p (transformers' TopPLogitsWarper)."""

    on_shift = Shift.PASSED
    p: Any = number(low=0, high=1, above=True)


@dataclass(frozen=True)
class RequestTopP(TopP):
    """The same for requests, some of which have none: at 1 every token is kept."""


@dataclass(frozen=True)
class MinP(Stage, name="min_p"):
    """Masks tokens with less than p times the best probability (MinPLogitsWarper)."""

    on_shift = Shift.PASSED
    p: Any = number(low=0, high=1)


@dataclass(frozen=True)
class Temperature(Stage, name="temperature"):
    """Divides the scores by t (transformers' TemperatureLogitsWarper)."""

    on_shift = Shift.PASSED
    t: Any = number(low=0, above=True, divides=True)


@dataclass(frozen=True)
class RepetitionPenalty(Stage, name="repetition_penalty"):
    """Penalises tokens already read (transformers' RepetitionPenaltyLogitsProcessor)."""

    x: Any = number(low=0, above=True, divides=True)


@dataclass(frozen=True)
class PresencePenalty(Stage, name="presence_penalty"):
    """Takes x from every token that is in the answer (OpenAI's and vLLM's presence_penalty)."""

    on_shift = Shift.PASSED
    x: Any = number()


@dataclass(frozen=True)
class FrequencyPenalty(Stage, name="frequency_penalty"):
    """Takes x from a token each time that it is in the answer (OpenAI's frequency_penalty)."""

    on_shift = Shift.PASSED
    x: Any = number()


@dataclass(frozen=True)
class TypicalP(Stage, name="typical_p"):
    """Keeps tokens as surprising as the scores are, up to the mass p (TypicalLogitsWarper)."""

    on_shift = Shift.PASSED
    p: Any = number(low=0, high=1, above=True)


@dataclass(frozen=True)
class EpsilonCutoff(Stage, name="epsilon_cutoff"):
    """Masks tokens less probable than x, but for the best (transformers' EpsilonLogitsWarper)."""

    on_shift = Shift.PASSED
    x: Any = number(low=0, high=1)


@dataclass(frozen=True)
class EtaCutoff(Stage, name="eta_cutoff"):
    """Masks below `min(x, sqrt(x)*exp(-entropy))`, but for the best (EtaLogitsWarper)."""

    on_shift = Shift.PASSED
    x: Any = number(low=0, high=1)


@dataclass(frozen=True)
class TopNSigma(Stage, name="top_n_sigma"):
    """Keeps scores within n standard deviations of the best (llama.cpp's top-n-sigma)."""

    on_shift = Shift.PASSED
    n: Any = number(low=0)


@dataclass(frozen=True)
class Xtc(Stage, name="xtc"):
    """By chance, masks tokens of at least the threshold but for the least probable (XTC)."""

    on_shift = Shift.PASSED
    probability: Any = number(low=0, high=1)
    threshold: Any = number(0.1, low=0, high=1)


@dataclass(frozen=True)
class NoRepeatNgram(Stage, name="no_repeat_ngram"):
    """Masks what would end an n-gram of the text again (NoRepeatNGramLogitsProcessor)."""

    on_shift = Shift.PASSED
    n: Any = number(low=0, high=64, integer=True, static=True, sizes=True)


@dataclass(frozen=True)
class Dry(Stage, name="dry"):
    """Takes `multiplier*base**(match - allowed_length)` from what would repeat a match (DRY)."""

    on_shift = Shift.PASSED
    multiplier: Any = number(low=0)
    base: Any = number(1.75, low=1)
    allowed_length: Any = number(2, low=1, integer=True)


@dataclass(frozen=True)
class MinTokens(Stage, name="min_tokens"):
    """Masks the tokens that end a row while fewer than n are drawn (vLLM's min_tokens)."""

    on_shift = Shift.PASSED
    n: Any = number(low=0, integer=True)


@dataclass(frozen=True)
class TokenBias(Frozen):
    """What is added to the score of one token: ``number``, a ``Scalar`` marked with its entry."""

    number: Any
    token: int


@dataclass(frozen=True)
class LogitBias(Stage, name="logit_bias"):
    """Adds a number to the scores of some tokens, by their ids (OpenAI's logit_bias)."""

    on_shift = Shift.PASSED
    bias: Any = by_token()


@dataclass(frozen=True)
class RequestBias(Stage):
    """The same of each request's own, without any number of the formula."""

    on_shift = Shift.PASSED
    name: ClassVar[str] = LogitBias.name


@dataclass(frozen=True)
class Search(Stage):
    """A stage over whole continuations: the last of a formula.

    ``r`` scores texts. It is an expression over reward models, or over language models: then it is
    the sum of the scores of the tokens so far (an implicit reward).

    Attributes:
        is_random: whether its texts are drawn, where a request gives no temperature.
    """

    is_random: ClassVar[bool] = True
    on_shift = Shift.PASSED
    why_last = "searches over whole texts, and this is scores"
    r: Any = reward()


@dataclass(frozen=True)
class Lookahead(Search):
    """`rerank` with ``ahead``: judges each candidate by its greedy continuation (Transfer Q*).

    Chakraborty et al. 2024, the direct form: ``score(v) + w·r([x, v, continuation])``.
    """

    name: ClassVar[str] = Rerank.name
    is_random: ClassVar[bool] = False
    why_last = "with ahead judges whole texts, and this is scores"
    k: Any = number(10, low=1, integer=True, tokens=True)
    w: Any = number(1)
    norm: str = choice("none", "center", "minmax")
    clamp: Any = pair()
    label: Any = label()
    ahead: Any = number(1, low=0, integer=True)


@dataclass(frozen=True)
class BestOf(Search, name="best_of"):
    """Draws n completions and answers with the best by r, or with one drawn by exp(beta*r)."""

    n: Any = number(low=1, high=4096, integer=True)
    beta: Any = optional_number(low=0)
    keep: Any = number(1, low=0, high=1, above=True)
    every: Any = number(64, low=1, integer=True)


@dataclass(frozen=True)
class Particles(Search, name="particles"):
    """Draws n completions by sequential Monte Carlo towards the formula times exp(r)."""

    n: Any = number(low=1, high=4096, integer=True)
    length: Any = number(16, low=1, integer=True, unless="until")
    ess: Any = number(0.5, low=0, high=1)
    until: Any = string()
    pick: str = choice("weight", "best")


@dataclass(frozen=True)
class Blockwise(Search, name="blockwise"):
    """Draws blocks from each beam and continues the best beams by r, block by block."""

    beams: Any = number(1, low=1, high=4096, integer=True)
    samples: Any = number(4, low=1, high=4096, integer=True)
    length: Any = number(32, low=1, integer=True, unless="until")
    until: Any = string()


@dataclass(frozen=True)
class Reject(Search, name="reject"):
    """Draws segments, each up to where the scores are unsure, until r accepts one (CARDS)."""

    target: Any = number(8.5)
    entropy: Any = number(3, low=0, unless="until")
    beta: Any = number(0.7, low=0)
    alpha: Any = number(0.5, low=0, high=1)
    shortest: Any = number(4, low=1, integer=True)
    longest: Any = number(64, low=1, integer=True, unless="until")
    retries: Any = number(20, low=0, high=4096, integer=True)
    samples: Any = number(1, low=1, high=4096, integer=True)
    until: Any = string()
