"""``rerank`` with ``ahead``: the candidates of one token, each judged by its greedy continuation.

Transfer Q* in its direct form (Chakraborty et al. 2024): ``score(v) + w·r([x, v, continuation])``
over the k best tokens v, of which the formula's own temperature draws one. Every candidate has a
row, which goes on from it greedily; then all rows go back to the text with the token that was
chosen. No tensors in here, but for the noise.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ....formula import Scalar
from ....formula.words.stages import Lookahead
from ...batch.rewrite import Rewrite
from ...binding.bound import Bound
from ...requests.answer import Answer, answer_to
from ...requests.request import Request
from ...scores.noise import gumbel_on_host
from .group import Move, Rows, Scores


@dataclass(frozen=True)
class Judging:
    """How candidates are judged: the numbers of the stage.

    Attributes:
        weight: of the reward.
        norm: of the rewards of the candidates, and ``clamp``, what they are kept between.
        temperature: of the request, by which one is drawn.
        key: of the request's noise.
    """

    weight: float
    norm: str
    clamp: tuple[float, float] | None
    temperature: float
    key: tuple[int, int]

    def best(
        self, tokens: Sequence[int], scores: Sequence[float], rewards: Sequence[float], step: int
    ) -> int:
        """Which candidate the request goes on with, of tokens with these scores and rewards."""
        added = self._normalised(rewards) if self.weight else [0.0] * len(tokens)
        values = [score + self.weight * reward for score, reward in zip(scores, added, strict=True)]
        if self.temperature:
            noise = [gumbel_on_host(self.key, step, token) for token in tokens]
            pairs = zip(values, noise, strict=True)
            values = [value / self.temperature + each for value, each in pairs]
        return max(range(len(tokens)), key=lambda i: (values[i], -tokens[i]))

    def _normalised(self, rewards: Sequence[float]) -> list[float]:
        low, high = 0.0, 1.0
        if self.norm == "center":
            low = math.fsum(rewards) / len(rewards)
        elif self.norm == "minmax":
            low, high = min(rewards), max(rewards)
        scale = high - low if self.norm == "minmax" and high > low else 1.0
        rewards = [(reward - low) / scale for reward in rewards]
        if self.clamp is not None:
            rewards = [min(max(reward, self.clamp[0]), self.clamp[1]) for reward in rewards]
        return rewards


class Candidates:
    """One request's rows: a candidate each, and what follows it."""

    def __init__(self, best: Answer, answers: list[Answer], judging: Judging, ahead: int) -> None:
        self.best, self.answers, self.due = best, answers, False
        self._judging, self._ahead = judging, ahead
        self._scores: list[float] = []  # of the candidates

    @property
    def over(self) -> bool:
        return self.best.finish_reason is not None

    @property
    def rooms(self) -> list[int]:
        end = len(self.best.tokens) + 1 + self._ahead
        return [0 if each.finish_reason else end - len(each.tokens) for each in self.answers]

    def take(self, tokens: Rows, unsure: Rows) -> list[int]:
        """``unsure``: the bits of the tokens' scores (``stages.apply`` of a ``Lookahead``)."""
        rooms = self.rooms
        if not self._scores:
            self._scores = [struct.unpack("f", struct.pack("i", each[0]))[0] for each in unsure]
        for answer, drawn, room in zip(self.answers, tokens, rooms, strict=True):
            answer.extend(drawn[:room])
        self.due = not any(self.rooms)
        return [min(room, 1) for room in rooms]

    def select(self, values: Sequence[float], scores: Scores) -> Move:
        """Every row goes on with the token that is chosen, and as another candidate after it."""
        at = len(self.best.tokens)
        first = {answer.tokens[at]: row for row, answer in reversed([*enumerate(self.answers)])}
        rows = sorted(first.values())  # a row whose candidate is excluded has drawn the best again
        chosen = self._judging.best(
            [self.answers[row].tokens[at] for row in rows],
            [self._scores[row] for row in rows],
            [values[row] for row in rows],
            at,
        )
        row = rows[chosen]
        self.best.add(self.answers[row].tokens[at])
        self._scores, self.due = [], False
        read = len(self.best.tokens)
        self.answers = [self.best.copied(answer.request) for answer in self.answers]
        rewrites = [
            Rewrite(self.best.tokens, read, ranked(rank, read), scores[row])
            for rank in range(len(self.answers))
        ]
        return [row] * len(rewrites), rewrites


def candidates_of(request: Request, bound: Bound) -> Candidates:
    """The rows of a request."""
    plan, (_, stage) = bound.plan, bound.plan.search or (None, None)
    assert isinstance(stage, Lookahead)

    def number(scalar: Scalar) -> float:
        return request.values[plan.columns[scalar]]

    clamp = None if stage.clamp is None else tuple(map(number, stage.clamp))
    judging = Judging(
        number(stage.w), stage.norm, clamp, request.temperature, request.key,  # type: ignore[arg-type]
    )  # fmt: skip
    ahead = int(number(stage.ahead))
    own: dict[str, Any] = {
        "temperature": 0.0, "max_new_tokens": request.max_new_tokens + ahead,
    }  # fmt: skip
    rows = [replace(request, key=ranked(rank, 0), **own) for rank in range(int(number(stage.k)))]
    answers = [answer_to(row, bound, 0.0) for row in rows]
    return Candidates(answer_to(request, bound, 0.0), answers, judging, ahead)


def ranked(rank: int, step: int) -> tuple[int, int]:
    """The key of a row that begins with one of the best tokens: which, and after how many."""
    return rank, step
