"""Segments drawn until one is accepted (CARDS; Li et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...batch.rewrite import Rewrite
from ...requests.answer import Answer
from ...scores.noise import coin, seed_key
from .group import Move, Scores
from .segment_rows import ROUNDS, SegmentGroup, SegmentRows


@dataclass(frozen=True)
class Rule:
    """The numbers by which a segment is accepted; those of the stage ``reject``."""

    target: float
    beta: float
    alpha: float
    retries: float

    def accepts(self, value: float, first: float, share: float, luck: float) -> bool:
        """Whether an answer of this value goes on.

        Args:
            value: of the answer.
            first: the value of the prompt.
            share: of the tokens that the answer may have, the part that it has.
            luck: a number in [0, 1) drawn for this.
        """
        start = (1 - self.alpha) * first + self.alpha * self.target
        threshold = min(start + share * (self.target - start), self.target)
        if value >= threshold or self.beta == 0:
            return value >= threshold
        return luck < math.exp((value - threshold) / self.beta)


class Segments(SegmentGroup):
    """Segments drawn until one is accepted (CARDS, Algorithm 1; Li et al. 2024).

    Several rows draw the next candidates side by side; they are tried in their order, and a
    candidate's noise is its own, so that the number of rows changes no answer.
    """

    def __init__(self, rows: SegmentRows, rule: Rule, shortest: float) -> None:
        super().__init__(rows, shortest)
        self._rule, self._seed = rule, rows.seed
        self.best = self.answers[0].copied(self.answers[0].request)  # what is accepted so far
        self.due = True  # the prompt alone comes first
        self._first: float | None = None
        self._scores: Sequence[float] = ()  # of what is accepted
        self._tried = 0
        self._best_rejected: tuple[float, Sequence[float], Answer] | None = None

    @property
    def over(self) -> bool:
        return self.best.finish_reason is not None

    def select(self, values: Sequence[float], scores: Scores) -> Move:
        """The first answer that is accepted, in every row; or new noise for all of them."""
        rows = len(self.answers)
        if self._first is None:
            self._first, self._scores = values[0], scores[0]
            return self._again(range(rows), len(self.best.tokens))
        started = len(self.best.tokens)
        for answer, value, own in zip(self.answers, values, scores, strict=True):
            if self._best_rejected is None or value > self._best_rejected[0]:
                self._best_rejected = value, own, answer
            exhausted = self._tried == self._rule.retries
            if exhausted or self._accepts(answer, value):
                kept = self._best_rejected if exhausted else (value, own, answer)
                _, self._scores, self.best = kept
                self._tried, self._best_rejected = 0, None
                if self.best not in self.answers:
                    return self._again(range(rows), started)
                row = self.answers.index(self.best)
                return self._again([row] * rows, len(self.best.tokens))
            self._tried += 1
        return self._again(range(rows), started)

    def _accepts(self, answer: Answer, value: float) -> bool:
        assert self._first is not None
        share = len(answer.tokens) / answer.request.max_new_tokens
        luck = coin(self._seed, self._number(len(self.best.tokens), self._tried))
        return self._rule.accepts(value, self._first, share, luck)

    def _again(self, sources: Sequence[int], read: int) -> Move:
        """Every row starts the next segment from what is accepted."""
        start = len(self.best.tokens)
        self._rows.answers = [self.best.copied(answer.request) for answer in self.answers]
        self.due = False
        self._rows.begin()
        tries = range(self._tried, self._tried + len(self.answers))
        keys = [seed_key(self._seed, self._number(start, tried)) for tried in tries]
        return sources, [Rewrite(self.best.tokens, read, key, self._scores) for key in keys]

    def _number(self, start: int, tried: int) -> int:
        """A candidate's number among all of the request's."""
        return (start << ROUNDS) + tried
