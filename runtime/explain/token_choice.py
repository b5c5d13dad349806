"""The explanation of a chosen token: its candidates, and what each part of the formula added."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """What adds to a score: one part of the formula's sum, its number, or a stage.

    Attributes:
        name: as the formula has it, like terms collected.
        kind: ``"term"``, ``"operator"`` (also a formula in parentheses), ``"number"`` or
            ``"stage"``.
        coefficient: its factor; None for a stage, and where the factor is another in each step.
        terms: the terms in an operator.
    """

    name: str
    kind: str
    coefficient: float | None = None
    terms: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluatedCondition:
    """A condition of ``where`` in one step, whether it held, and the values that it compared."""

    condition: str
    holds: bool
    states: dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """One token that could have been chosen.

    Attributes:
        id, text: the token; text where there is a tokenizer.
        rank: by score, from 1; None where it is excluded.
        score: the formula's, stages included; None where it is excluded. It is the sum of the
            contributions, to float32's rounding.
        probability: of drawing it, at the request's temperature or, where that is 0, at 1.
        contributions: of each part to the score; None where it did not run or excluded the token.
        logprobs: per term of the formula its log-probability; None where it was not read.
        rewards: per reward model of the formula its reward; None where it scored another token.
        noise: added to ``score / temperature`` in drawing; None at temperature 0.
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
        conditions: of ``where``, those that the step evaluated.
        search_score: the token's score by the language models of a search, or None.
        candidates: by score, those that are excluded last; the token itself, the best and the
            base's choice are always among them.
        numbers: per part, its numbers of the state: by their text, their values in this step; and
            of a constraint how many tokens it allows.
    """

    step: int
    id: int
    text: str | None
    best: int
    base: int
    changed: bool
    by_noise: bool
    conditions: tuple[EvaluatedCondition, ...]
    search_score: float | None
    candidates: tuple[Candidate, ...]
    numbers: tuple[dict[str, float], ...] = ()
