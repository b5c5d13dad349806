"""What is told of a choice: its candidates, and what every part of the formula added to each.

Plain nouns with text and numbers in them; how they are found is said elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """What adds to a score: one part of the formula's sum, its number, or a stage.

    Attributes:
        name: as the formula has it, like terms collected.
        kind: ``"term"``, ``"operator"`` (also a formula in parentheses), ``"number"`` or
            ``"stage"``.
        coefficient: what it is multiplied by; None for a stage.
        terms: the terms that an operator is made of.
    """

    name: str
    kind: str
    coefficient: float | None = None
    terms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gate:
    """A condition of ``where`` in one step, the values that it looked at, and whether it held."""

    condition: str
    holds: bool
    states: dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """One token that could have been chosen.

    Attributes:
        id, text: the token; text where there is a tokenizer.
        rank: its place by score, from 1; None where it is excluded.
        score: the formula's, stages included; None where it is excluded. It is the sum of the
            contributions, to float32's rounding.
        probability: of drawing it, at the request's temperature or, where that is 0, at 1.
        contributions: per part what it added; None where it had no say or excluded the token.
        logprobs: per term of the formula its log-probability; None where it was not read.
        rewards: per reward model of the formula what it said; None where it was not asked.
        noise: what was added to ``score / temperature`` in drawing; None at temperature 0.
        removed_by: the part that excludes the token, the first if there are several.
    """

    id: int
    text: str | None
    rank: int | None
    score: float | None
    probability: float
    contributions: tuple[float | None, ...]
    logprobs: tuple[float | None, ...]
    rewards: tuple[float | None, ...]
    noise: float | None = None
    removed_by: str | None = None


@dataclass(frozen=True)
class Choice:
    """One generated token.

    Attributes:
        step: tokens before it.
        id, text: the token.
        best: the token with the best score.
        base: the token that the base alone would have chosen, with the same noise.
        changed: whether the base alone would have chosen another.
        by_noise: whether it was drawn though another had a better score.
        gates: the conditions that were looked at.
        judged: what the language models that judge a search added for it.
        candidates: by score, those that are excluded last; the token itself, the best and the
            base's choice are always among them.
    """

    step: int
    id: int
    text: str | None
    best: int
    base: int
    changed: bool
    by_noise: bool
    gates: tuple[Gate, ...]
    search_score: float | None
    candidates: tuple[Candidate, ...]
