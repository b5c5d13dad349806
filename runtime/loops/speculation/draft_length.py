"""How many tokens to draft: as many as give the most tokens for what a round costs.

A round drafts some tokens per row, verifies them in one chunked step, and gives those that agree
and one more. Costs have no unit: bytes do as well as seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

START, LONGEST = 4, 8  # tokens that are drafted until a draft of that length was kept, and at most
_PRIOR_RATE, _PRIOR_TOKENS = 0.8, 4.0  # what is assumed of a draft, and how many tokens that weighs
_DECAY = 0.97  # of a tested token's weight, per token tested after it
_UNLIKELY = 0.05  # a token that is reached with less than this probability is not drafted
_PAUSE = 16  # steps until drafting is tried again where it did not pay; doubled each time


@dataclass(frozen=True)
class RoundCosts:
    """What rounds of one draft cost, all in the same unit.

    Attributes:
        step: an ordinary step, without a draft.
        draft: one step of the draft.
        verify: the verification of 0, 1, 2, … drafted tokens per row: of one position more.
    """

    step: float
    draft: float
    verify: tuple[float, ...]

    @property
    def longest(self) -> int:
        """The longest draft whose cost is known."""
        return len(self.verify) - 1

    def cost(self, length: int) -> float:
        """A round with drafts of so many tokens; with none it is an ordinary step."""
        return length * self.draft + self.verify[length] if length else self.step

    def relative(self, length: int) -> float:
        """A round's cost in ordinary steps."""
        return self.cost(length) / self.step


def expected_tokens(rate: float, length: int) -> float:
    """Tokens that a round gives on average, from 1 to ``length + 1``.

    Args:
        rate: the probability that a drafted token is accepted if those before it are.
        length: tokens that are drafted.
    """
    if rate >= 1:
        return float(length + 1)
    return float((1 - rate ** (length + 1)) / (1 - rate))


def best_length(rate: float, costs: RoundCosts, most: int = LONGEST) -> int:
    """The length in ``0 … most`` that gives the most tokens for what a round costs."""
    return batch_length([rate], [most], costs)


def batch_length(rates: Sequence[float], longest: Sequence[int], costs: RoundCosts) -> int:
    """One length for all rows that gives the most tokens, over the rows, for what a round costs.

    Args:
        rates: of each row.
        longest: of each row, at most so many tokens are drafted for it, whatever the length.

    Returns:
        The shortest such length; 0 where an ordinary step is best.
    """
    lengths = range(min(costs.longest, max(longest, default=0)) + 1)
    rows = list(zip(rates, longest, strict=True))

    def tokens_per_cost(length: int) -> float:
        tokens = sum(expected_tokens(rate, min(length, cap)) for rate, cap in rows)
        return tokens / costs.cost(length)

    return max(lengths, key=tokens_per_cost)


class Acceptance:
    """How many of the tokens that were drafted for a request, or for a batch, were accepted.

    Args:
        prior: of how many tokens what is assumed at first has the weight.

    Attributes:
        tested: drafted tokens that were compared: those accepted, and the first that was not.
        accepted: of these.
    """

    def __init__(self, prior: float = _PRIOR_TOKENS) -> None:
        self.tested = self.accepted = 0
        self._weight, self._kept = prior, _PRIOR_RATE * prior
        self._grown = False

    @property
    def rate(self) -> float:
        """The probability that the next one is accepted; the latest tokens count most."""
        return self._kept / self._weight

    @property
    def longest(self) -> int:
        """Tokens to draft at most: few until so many were kept, and none that is hardly reached."""
        most = LONGEST if self._grown else START
        rate = self.rate
        reached = math.log(_UNLIKELY) / math.log(rate) if 0 < rate < 1 else most * rate
        return min(most, max(1, math.floor(reached)))

    def observe(self, drafted: int, accepted: int) -> None:
        """Count one draft: what comes after the first token that differs is not tested."""
        self.add(min(drafted, accepted + 1), accepted)
        self._grown |= accepted == drafted >= START

    def add(self, tested: int, accepted: int) -> None:
        """Count tokens that were compared, however they were drafted."""
        if not tested:
            return
        self.tested += tested
        self.accepted += accepted
        fading = _DECAY**tested
        each = (1 - fading) / (1 - _DECAY) / tested
        self._weight = fading * self._weight + each * tested
        self._kept = fading * self._kept + each * accepted

    def doubt(self) -> None:
        """Give what is known the weight of a few tokens: the next ones decide."""
        less = min(1.0, _PRIOR_TOKENS / self._weight)
        self._weight, self._kept = less * self._weight, less * self._kept


class AdaptiveLength:
    """The lengths of a batch's drafts, of each request by its own acceptance.

    Where no length pays, none is drafted, and one is tried again after 16 steps, then after 32
    more, and so on, for a text may become easier.
    """

    def __init__(self) -> None:
        self._pause, self._paused = _PAUSE, 0

    def lengths(
        self, requests: Sequence[Acceptance], room: Sequence[int], costs: RoundCosts
    ) -> list[int]:
        """The length of each request's draft in the next round; all 0 for an ordinary step.

        Args:
            requests: with slots, each with what it has accepted.
            room: tokens that may be drafted for each; one less than it may still give.
        """
        longest = [min(one.longest, left) for one, left in zip(requests, room, strict=True)]
        length = batch_length([one.rate for one in requests], longest, costs)
        if length:
            self._pause, self._paused = _PAUSE, 0
        elif self._paused < self._pause:
            self._paused += 1
        else:
            self._pause, self._paused = 2 * self._pause, 0
            for request in requests:
                request.doubt()
            return [min(START, left) for left in room]
        return [min(length, cap) for cap in longest]
