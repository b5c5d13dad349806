"""Search rules: one request's answers in the making, and what each search keeps of them.

A group takes the tokens that its rows have drawn and, when it is due, the values of its answers so
far; it returns what each row goes on with. No tensors in here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from ...formula import Scalar
from ...formula.words.stages import BestOf, Blockwise, Reject
from ..batch.rewrite import Rewrite
from ..binding.bound import Bound
from ..requests.answer import Answer, answer_to
from ..requests.request import Request
from ..scores.noise import coin, seed_key

Move = tuple[Sequence[int], Sequence[Rewrite]]  # per row: whose answer, and where it is rewritten
Rows = Sequence[Sequence[int]]


class Group(Protocol):
    """One request's rows in a search.

    Attributes:
        answers: one per row.
        best: the answer of the request, once the group is over.
        due: whether its answers are to be valued before the next step.
    """

    answers: list[Answer]
    best: Answer
    due: bool

    @property
    def over(self) -> bool:
        """Whether the request is answered."""

    @property
    def rooms(self) -> list[int]:
        """Tokens that each row may take before the next selection; 0 where it stands still."""

    def take(self, tokens: Rows, unsure: Rows) -> list[int]:
        """Tokens per row, and whether the scores of each were unsure; how many each row takes."""

    def select(self, values: Sequence[float]) -> Move:
        """What each row goes on with, given the value of its answer."""


def group_of(request: Request, bound: Bound) -> Group:
    """The rows of a request, by the numbers that it gives the stage that searches."""
    plan = bound.plan

    def number(scalar: Scalar) -> float:
        return request.values[plan.columns[scalar]]

    high, low = request.key
    seed = (high << 32) ^ low

    def answers(count: int) -> list[Answer]:
        keys = [seed_key(seed, i) for i in range(count)]
        return [answer_to(replace(request, key=key), bound, 0.0) for key in keys]

    match plan.search:
        case (_, BestOf() as stage):
            return Blocks(answers(int(number(stage.n))), 1, request.max_new_tokens)
        case (_, Blockwise() as stage):
            beams, length = int(number(stage.beams)), int(number(stage.length))
            return Blocks(answers(beams * int(number(stage.samples))), beams, length)
        case (_, Reject() as stage):
            names = ("target", "beta", "alpha", "shortest", "longest", "retries")
            rule = Rule(**{name: number(getattr(stage, name)) for name in names})
            return Segments(answers(int(number(stage.samples))), rule, seed)
    raise TypeError(f"no group for {plan.search}")


class Blocks:
    """The best of several answers, or of several beams block by block."""

    def __init__(self, answers: list[Answer], beams: int, length: int) -> None:
        self.answers, self.beams, self.length = answers, beams, length
        self.best = answers[0]
        self.end, self.due = length, False  # of the block, in tokens of an answer

    @property
    def over(self) -> bool:
        return all(answer.finish_reason for answer in self.answers)

    @property
    def rooms(self) -> list[int]:
        return [
            0
            if each.finish_reason
            else min(self.end, each.request.max_new_tokens) - len(each.tokens)
            for each in self.answers
        ]

    def take(self, tokens: Rows, unsure: Rows) -> list[int]:
        taken = []
        for answer, drawn, room in zip(self.answers, tokens, self.rooms, strict=True):
            before = len(answer.tokens)
            answer.extend(drawn[:room])
            taken.append(len(answer.tokens) - before)
        self.due = not any(self.rooms)
        return taken

    def select(self, values: Sequence[float]) -> Move:
        """The best beams, repeated; a text that was drawn twice counts once."""
        self.due, self.end = False, self.end + self.length
        order = sorted(range(len(values)), key=lambda i: -values[i])
        self.best = self.answers[order[0]]
        if self.over:
            return (), ()
        texts = {tuple(self.answers[i].tokens): i for i in order[::-1]}
        kept = sorted(texts.values(), key=order.index)[: self.beams]
        chosen = [kept[i * len(kept) // len(values)] for i in range(len(values))]
        pairs = zip(chosen, self.answers, strict=True)
        self.answers = [self.answers[i].copied(own.request) for i, own in pairs]
        return chosen, ()


@dataclass(frozen=True)
class Rule:
    """The numbers by which a segment ends and is accepted; those of the stage ``reject``."""

    target: float
    beta: float
    alpha: float
    shortest: float
    longest: float
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


class Segments:
    """Segments drawn until one is accepted (CARDS, Algorithm 1; Li et al. 2024).

    Several rows draw the next candidates side by side; they are tried in their order, and a
    candidate's noise is its own, so that the number of rows changes no answer.
    """

    def __init__(self, answers: list[Answer], rule: Rule, seed: int) -> None:
        self.answers, self._rule, self._seed = answers, rule, seed
        self.best = answers[0].copied(answers[0].request)  # what is accepted so far
        self.due = True  # the prompt alone comes first
        self._first: float | None = None
        self._score = 0.0  # of what is accepted
        self._tried = 0
        self._best_rejected: tuple[float, Answer] | None = None  # the best of the rejected
        self._held: list[bool] = []

    @property
    def over(self) -> bool:
        return self.best.finish_reason is not None

    @property
    def rooms(self) -> list[int]:
        end = len(self.best.tokens) + self._rule.longest
        return [
            0 if held else math.ceil(min(end, each.request.max_new_tokens)) - len(each.tokens)
            for each, held in zip(self.answers, self._held, strict=True)
        ]

    def take(self, tokens: Rows, unsure: Rows) -> list[int]:
        taken = [self._taken(i, *row) for i, row in enumerate(zip(tokens, unsure, strict=True))]
        self.due = all(self._held)
        return taken

    def _taken(self, i: int, tokens: Sequence[int], unsure: Sequence[int]) -> int:
        """Have a row take tokens up to the end of its segment; how many."""
        answer, started = self.answers[i], len(self.best.tokens)
        before = len(answer.tokens)
        for token, is_unsure in zip(tokens, unsure, strict=True):
            drawn = len(answer.tokens) - started
            self._held[i] |= drawn >= self._rule.shortest and bool(is_unsure)
            if self._held[i]:
                break
            answer.add(token)
            self._held[i] = bool(answer.finish_reason) or drawn + 1 >= self._rule.longest
        return len(answer.tokens) - before

    def select(self, values: Sequence[float]) -> Move:
        """The first answer that is accepted, in every row; or new noise for all of them."""
        rows = len(self.answers)
        if self._first is None:
            self._first = self._score = values[0]
            return self._again(range(rows), len(self.best.tokens))
        started = len(self.best.tokens)
        for answer, value in zip(self.answers, values, strict=True):
            if self._best_rejected is None or value > self._best_rejected[0]:
                self._best_rejected = (value, answer)
            exhausted = self._tried == self._rule.retries
            if exhausted or self._accepts(answer, value):
                self._score, self.best = self._best_rejected if exhausted else (value, answer)
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
        self.answers = [self.best.copied(answer.request) for answer in self.answers]
        self._held, self.due = [False] * len(self.answers), False
        tries = range(self._tried, self._tried + len(self.answers))
        keys = [seed_key(self._seed, self._number(start, tried)) for tried in tries]
        return sources, [Rewrite(self.best.tokens, read, key, self._score) for key in keys]

    def _number(self, start: int, tried: int) -> int:
        """A candidate's number among all of the request's."""
        return (start << 16) + tried
