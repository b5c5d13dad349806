"""Sequential Monte Carlo: answers drawn by the formula, weighted and resampled towards q·exp(r).

The bootstrap filter of Gordon et al. (1993), with resampling by effective sample size, over
segments of texts as in Zhao et al. (2024) and Loula et al. (2025). What constraints leave of the
formula's probability counts too, so that the target is the formula under the whole constraint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...requests.answer import Answer
from ...scores.noise import coin
from .group import Move, Rows, Scores
from .segment_rows import SegmentGroup, SegmentRows
from .weights import drawn_by_weight, effective_sample_size, log_mean_exp, resampled


class Particles(SegmentGroup):
    """Answers whose weights grow by what r grew by, and that are resampled where these differ.

    Args:
        rows: the answers, in their first segments.
        ess: the share of the rows below which the effective sample size has them resampled.
        takes_best: whether the answer is the one with the greatest weight, not one drawn by them.
        error: what is wrong, as an error that marks r.
    """

    def __init__(
        self, rows: SegmentRows, ess: float, takes_best: bool, error: Callable[[str], Exception]
    ) -> None:
        super().__init__(rows)
        self._ess, self._takes_best, self._error = ess, takes_best, error
        self.best = rows.answers[0].copied(rows.answers[0].request)
        count = len(rows.answers)
        self._values, self._masses, self._log_weights = ([0.0] * count for _ in range(3))
        self._log_normalizer = 0.0  # of what was resampled
        self._round, self._drew = 0, set[int]()  # rows, in their segments
        self._completes = rows.answers[0].ends
        if self.best.request.eos:  # which are drawn, for their probability counts
            for answer in rows.answers:
                answer.ends = None

    @property
    def over(self) -> bool:
        return self.best.finish_reason is not None

    def take(self, tokens: Rows, unsure: Rows) -> list[int]:
        taken = super().take(tokens, unsure)
        self._drew |= {row for row, count in enumerate(taken) if count}
        for answer in self.answers:
            self._complete(answer)
        return taken

    def select(self, values: Sequence[float], scores: Scores) -> Move:
        """Every row goes on, or copies another's answer where the weights were uneven."""
        self.due, self._round = False, self._round + 1
        self._grow(values, [own[-1] for own in scores])
        if self.best.error is not None:
            return (), ()
        luck, rows = coin(self._rows.seed, self._round), self._rows
        if rows.over:
            self._choose(luck)
            return (), ()
        chosen = list(range(len(rows.answers)))
        if effective_sample_size(self._log_weights) < self._ess * len(chosen):
            chosen = resampled(self._log_weights, luck)
            self._log_normalizer += log_mean_exp(self._log_weights)
            self._log_weights = [0.0] * len(chosen)
        self._values = [self._values[source] for source in chosen]
        self._masses = [self._masses[source] for source in chosen]
        rows.go_on(chosen)
        return chosen, rows.rewrites([scores[source] for source in chosen], self._round)

    def _complete(self, answer: Answer) -> None:
        """Where a constraint left nothing but the end, that is no token of the answer."""
        if self._completes is None or answer.finish_reason not in ("eos", "length"):
            return
        before = answer.tokens[:-1] if answer.finish_reason == "eos" else answer.tokens
        if self._completes(before):
            answer.tokens, answer.finish_reason = [*before], "stop"

    def _grow(self, values: Sequence[float], masses: Sequence[float]) -> None:
        """Add to every log-weight what its answer has gained in this segment.

        ``masses``: the logarithms of what constraints left of the formula's probability, by answer.
        """
        if math.inf in values:
            return self.best.fail(self._error("r is infinite for an answer of particles"))
        for row in self._drew:  # others have ended before
            if self._log_weights[row] == -math.inf:
                continue
            self._log_weights[row] += values[row] - self._values[row]
            self._log_weights[row] += masses[row] - self._masses[row]
            self._values[row], self._masses[row] = values[row], masses[row]
        self._drew.clear()
        if max(self._log_weights) == -math.inf:
            many = f"all {len(values)} particles have the weight 0: r is -inf for every answer"
            self.best.fail(self._error(many))

    def _choose(self, luck: float) -> None:
        """Answer with one of the particles, which have all ended."""
        weights = self._log_weights
        row = drawn_by_weight(weights, luck)
        if self._takes_best:
            row = max(range(len(weights)), key=weights.__getitem__)
        total = self._log_normalizer + log_mean_exp(weights)
        for answer, weight in zip(self.answers, weights, strict=True):
            answer.log_weight, answer.log_normalizer = self._log_normalizer + weight, total
        self.best = self.answers[row].copied(self.best.request)
        self.best.particles = self.answers
