"""The draft of a running batch, chosen by what it costs and how often it agrees.

An ordinary step tells for nothing how often each candidate would have agreed. What a round really
takes is measured, in ordinary steps, and only where the numbers promise a gain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from .draft_length import LONGEST, Acceptance, RoundCosts, expected_tokens

_LOOK, _LEAST = 8, 3  # tokens of ordinary steps before anything is drafted; steps at least
_REFRESH = 32  # rounds after which an ordinary step is taken, to compare with
_MARGIN = 1.08  # a gain that is worth a change
_TRIED = 2  # rounds of a length before its seconds count: one may be an outlier
_WINDOW, _KEPT = 9, 64  # measurements that count: the latest of one kind, and of all rounds
_PAUSE = 32  # steps until a draft that was slow is tried again; doubled each time
_STAYS = 0.97  # of the highest gain, at which the last length stays
_LOST = 0.015  # the share of the time that trials may lose
_SURPRISE = 1 / 32  # weight of one round in what rounds give over what is expected of them


class _Candidate:
    """What is known of one draft.

    Attributes:
        acceptance: over all rows.
        rounds: that were measured, since it last rested, and the ``length`` of the last one.
        pause: steps that it rests when it is slow.
        wakes: the turn at which its rest ends; None for one that does not rest.
    """

    def __init__(self, costs: RoundCosts) -> None:
        self.costs, self.acceptance = costs, Acceptance(prior=1)
        self.rounds, self.length, self.pause = 0, 0, _PAUSE
        self.wakes: int | None = None
        self._worst = 0.0  # what a round cost before it rested
        self._coverage = 1.0  # the share of rows for which it has anything to propose
        self._yield = 1.0  # tokens of rounds over what acceptance lets expect
        self._rounds: deque[tuple[int, float]] = deque(maxlen=_KEPT)  # lengths and costs
        self._measured: dict[int, float] = {}  # what a length costs that was tried often enough

    @property
    def in_trial(self) -> bool:
        """Whether it has begun, and its seconds do not count yet."""
        return self.rounds > 0 and not self._measured

    def rest(self, turn: int) -> None:
        """Rest until what was measured is too old to believe."""
        if self.rounds >= _REFRESH:
            self.pause = _PAUSE
        self.wakes = turn + self.pause
        self._worst = max(self._measured.values(), default=0.0)

    def wake(self) -> None:
        """Go by predicted costs again; rest twice as long the next time."""
        self._rounds.clear()
        self._measured.clear()
        self.rounds, self._yield, self.wakes = 0, 1.0, None
        self.pause *= 2

    def cover(self, proposals: int, rows: int) -> None:
        """Count the rows with a proposal, where any has one; else the step is an ordinary one."""
        if proposals:
            self._coverage += (proposals / rows - self._coverage) / 16

    def measure(self, length: int, cost: float, tokens: float) -> None:
        """Count what a round cost, in ordinary steps, and gave, per row."""
        self._rounds.append((length, cost))
        costs: dict[int, deque[float]] = {}
        for each, its_cost in self._rounds:
            costs.setdefault(each, deque(maxlen=_WINDOW)).append(its_cost)
        self._measured = {n: _usual(c) for n, c in costs.items() if len(c) >= _TRIED}
        self._yield += _SURPRISE * (tokens / self._expected(length) - self._yield)
        self.length = length
        self.rounds += 1

    def best(self, room: int) -> tuple[float, int]:
        """The highest gain over ordinary steps, and a length that has it, or nearly."""
        most = min(room, self.costs.longest, self.acceptance.longest)
        lengths = range(1, most + 1)
        gains = {n: self._yield * self._expected(n) / self.cost(n) for n in lengths}
        length = max(gains, key=gains.__getitem__, default=0)
        highest = gains.get(length, 0.0)
        if gains.get(self.length, 0.0) >= _STAYS * highest:
            length = self.length
        return highest, length

    def loss(self, length: int) -> float:
        """What a round is expected to lose, in ordinary steps; the latest cost counts in a trial.

        Negative where it gains.
        """
        cost = self._rounds[-1][1] if self.in_trial else self.cost(length)
        return cost - self._yield * self._expected(length)

    def risk(self, length: int) -> float:
        """What a trial may lose, in ordinary steps."""
        return _TRIED * (max(self._worst, self.cost(length)) - 1)

    def cost(self, length: int) -> float:
        """A round in ordinary steps: measured, or predicted and what others took beyond that.

        What a round takes beyond its prediction grows in proportion to its length.
        """
        measured = self._measured
        if length in measured:
            return measured[length]
        beyond = {n: cost - self.costs.relative(n) for n, cost in measured.items()}
        below = max((n for n in beyond if n < length), default=0)
        above = min((n for n in beyond if n > length), default=0)
        more = beyond.get(below, 0.0)
        if above:
            more += (beyond[above] - more) * (length - below) / (above - below)
        elif below:
            more *= length / below
        predicted = self.costs.relative(length)
        return max(predicted + more, predicted / 4)

    def _expected(self, length: int) -> float:
        """Tokens per row of a round, by acceptance."""
        return 1 + self._coverage * (expected_tokens(self.acceptance.rate, length) - 1)


def _usual(seconds: Iterable[float]) -> float:
    """What it usually takes: about a third is quicker, for disturbances only add."""
    ordered = sorted(seconds)
    return ordered[(len(ordered) - 1) // 3]


class AutoDraft:
    """Chooses before every step of a batch whether to draft, by what, and how far.

    It looks at some ordinary steps, takes the candidate that promises the most tokens for the time,
    if these are clearly more than without a draft, and keeps it while what is measured is not
    slower. A draft that was slower rests, twice as long each time. Trials after the first one wait
    until what they may lose is 1.5 % of the time so far.

    It may serve one batch after another: what it has measured stays.

    Args:
        candidates: what the rounds of each draft cost, by names of the caller's.
    """

    def __init__(self, candidates: Mapping[str, RoundCosts]) -> None:
        self._candidates = {name: _Candidate(costs) for name, costs in candidates.items()}
        self._steps: dict[int, deque[float]] = {}  # seconds; see ``_seconds``
        self._currents: dict[frozenset[str], str | None] = {}  # by what cannot draft
        self._turn = self._looked = self._since_step = 0
        self._spent = self._lost = 0.0  # seconds
        self._has_tried = False

    @property
    def knows_enough(self) -> bool:
        """Whether it has looked at what candidates draw as often as it needs."""
        return self._looked >= _LOOK

    def choose(
        self, rows: int, room: int = LONGEST, without: Collection[str] = ()
    ) -> tuple[str | None, int]:
        """The candidate that drafts the next round, and tokens per row; ``(None, 0)`` for a step.

        Args:
            rows: in the batch.
            room: the most tokens that may be drafted for any of them.
            without: candidates that have nothing to propose now.
        """
        self._turn += 1
        looked = len(self._seconds(rows)) >= _LEAST and self._looked >= _LOOK
        if not looked or self._since_step >= _REFRESH or room < 1:
            return None, 0
        key = frozenset(without)
        name, length = self._best(rows, room, key)
        self._currents[key] = name
        self._has_tried |= name is not None
        return name, length

    def observe_step(
        self, seconds: float | None, rows: int, agreements: Mapping[str, tuple[int, int]]
    ) -> None:
        """Count an ordinary step.

        Args:
            seconds: that it took; None where it took longer, to see what candidates would draw.
            rows: in the batch.
            agreements: of candidates, the rows whose token they would have proposed, and those for
                which they would have proposed any.
        """
        if seconds is not None:
            self._seconds(rows).append(seconds)
            self._spent += seconds
        self._looked += rows
        self._since_step = 0
        for name, (matches, proposals) in agreements.items():
            self._candidates[name].acceptance.add(proposals, matches)
            self._candidates[name].cover(proposals, rows)

    def observe_round(
        self, name: str, length: int, seconds: float, rows: Sequence[tuple[int, int]]
    ) -> None:
        """Count a round.

        Args:
            name: of the candidate that drafted.
            length: of the longest draft.
            seconds: of the draft and the verification.
            rows: of each, the tokens that were drafted, and those that were accepted.
        """
        candidate, ordinary = self._candidates[name], self._seconds(len(rows))
        self._spent += seconds
        self._since_step += 1
        candidate.cover(sum(drafted > 0 for drafted, _ in rows), len(rows))
        if ordinary and length:
            step, tokens = _usual(ordinary), sum(kept + 1 for _, kept in rows) / len(rows)
            candidate.measure(length, seconds / step, tokens)
            self._lost = max(0.0, self._lost + candidate.loss(length) * step)
        for drafted, accepted in rows:
            candidate.acceptance.observe(drafted, accepted)

    def _seconds(self, rows: int) -> deque[float]:
        """Of ordinary steps of about as many rows: fewer than twice as many."""
        return self._steps.setdefault(rows.bit_length(), deque(maxlen=_WINDOW))

    def _best(self, rows: int, room: int, without: frozenset[str]) -> tuple[str | None, int]:
        """The best candidate that may draft now, and its length."""
        for candidate in self._candidates.values():
            if candidate.wakes is not None and self._turn >= candidate.wakes:
                candidate.wake()
        best = {
            name: candidate.best(room)
            for name, candidate in self._candidates.items()
            if name not in without
        }
        current, to_beat = self._currents.get(without), 1.0
        if current is not None:
            candidate, (gain, _) = self._candidates[current], best[current]
            if candidate.in_trial:
                return current, min(candidate.length, room)
            if gain < 1:
                candidate.rest(self._turn)
                current = None
            to_beat = max(to_beat, gain)
        better = [
            (gain, name) for name, (gain, length) in best.items()
            if name != current and gain >= _MARGIN * to_beat and self._may_try(name, length, rows)
        ]  # fmt: skip
        if better:
            _, current = max(better)
            self._candidates[current].wakes = None
        return (current, best[current][1]) if current is not None else (None, 0)

    def _may_try(self, name: str, length: int, rows: int) -> bool:
        """Whether it was measured, or the time so far allows for what a trial may lose."""
        candidate = self._candidates[name]
        if candidate.rounds or not self._has_tried:
            return True
        risk = candidate.risk(length) * _usual(self._seconds(rows))
        return self._lost + risk <= _LOST * self._spent
