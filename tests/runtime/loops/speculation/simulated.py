"""Simulated decoding: what steps and rounds take and accept is known, and so is the best choice."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from descant.runtime.loops.speculation.draft_length import RoundCosts


class Chooser(Protocol):
    """What ``AutoDraft`` does for a batch."""

    def choose(self, rows: int, room: int) -> tuple[str | None, int]: ...
    def observe_step(
        self, seconds: float, rows: int, agreements: Mapping[str, tuple[int, int]]
    ) -> None: ...
    def observe_round(
        self, name: str, length: int, seconds: float, rows: Sequence[tuple[int, int]]
    ) -> None: ...


class Fixed:
    """One choice, whatever happens."""

    def __init__(self, name: str, length: int) -> None:
        self._name, self._length = name, length

    def choose(self, rows: int, room: int) -> tuple[str | None, int]:
        return (self._name, min(self._length, room)) if room else (None, 0)

    def observe_step(
        self, seconds: float, rows: int, agreements: Mapping[str, tuple[int, int]]
    ) -> None:
        """Learn nothing."""

    def observe_round(
        self, name: str, length: int, seconds: float, rows: Sequence[tuple[int, int]]
    ) -> None:
        """Learn nothing."""


@dataclass
class Workload:
    """A batch that decodes.

    Attributes:
        seconds: what rounds of each candidate really take; steps take 1.
        rate: a candidate's acceptance after so many tokens of a row.
        tokens: of each row.
        rows: at the beginning; ``ends``, whether they end one after the other.
        noise: the spread of a step's seconds; one in twenty takes three times as long.
    """

    seconds: Mapping[str, RoundCosts]
    rate: Callable[[str, int], float]
    tokens: int = 400
    rows: int = 1
    noise: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.steps = self.rounds = 0

    def _noisy(self, seconds: float) -> float:
        spread = self._random.lognormvariate(0, self.noise) if self.noise else 1.0
        return seconds * spread * (3 if self.noise and self._random.random() < 0.05 else 1)

    def run(self, auto: Chooser) -> float:
        """Decode; the seconds it takes without their noise."""
        total, left = 0.0, [self.tokens] * self.rows
        while left:
            done = self.tokens - max(left)
            name, length = auto.choose(len(left), max(left) - 1)
            if name is None:
                self.steps += 1
                agreements = {}
                for one in self.seconds:
                    rate = self.rate(one, done)
                    matches = sum(self._random.random() < rate for _ in left)
                    agreements[one] = (matches, len(left))
                auto.observe_step(self._noisy(1.0), len(left), agreements)
                total += 1.0
                left = [each - 1 for each in left]
            else:
                self.rounds += 1
                rate, rows = self.rate(name, done), []
                for each in left:
                    drafted, accepted = min(length, each - 1), 0
                    while accepted < drafted and self._random.random() < rate:
                        accepted += 1
                    rows.append((drafted, accepted))
                seconds = self.seconds[name].cost(length)
                auto.observe_round(name, length, self._noisy(seconds), rows)
                total += seconds
                pairs = zip(left, rows, strict=True)
                left = [each - accepted - 1 for each, (_, accepted) in pairs]
            left = [each for each in left if each > 0]
        return total

    def best_fixed(self) -> float:
        """The seconds of the best choice that is kept all the way, none among them."""
        choices = [(n, i) for n, costs in self.seconds.items() for i in range(1, costs.longest + 1)]
        fixed = [replace(self).run(Fixed(name, length)) for name, length in choices]
        return min([float(self.tokens), *fixed])
