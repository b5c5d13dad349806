"""The best of several answers, or one drawn by weight; the worse may be dropped on the way.

Dropping rows while they are written is speculative rejection (Sun et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...scores.noise import coin
from .group import Move, Scores
from .segment_rows import SegmentGroup, SegmentRows
from .weights import drawn_by_weight


class BestOf(SegmentGroup):
    """Answers of which the best is taken, or one drawn in proportion to ``exp(beta·r)``.

    Args:
        rows: the answers.
        beta: None for the best.
        keep: the share of the answers that stay after each ``every`` tokens of the rows.
        error: what is wrong, as an error that marks r.
    """

    def __init__(
        self,
        rows: SegmentRows,
        beta: float | None,
        keep: float,
        every: int,
        error: Callable[[str], Exception],
    ) -> None:
        super().__init__(rows)
        self._beta, self._keep, self._every, self._error = beta, keep, every, error
        self._bound()

    def select(self, values: Sequence[float], scores: Scores) -> Move:
        """The answers that stay, in their rows; the others are none of this group any more."""
        self.due = False
        order = sorted(range(len(values)), key=lambda row: -values[row])
        if self.over:
            self.best = self.answers[order[0] if self._beta is None else self._drawn(values)]
            return (), ()
        kept = sorted(order[: self._staying()])
        self._rows.answers = [self.answers[row] for row in kept]
        self._bound()
        self._rows.begin()
        return range(len(values)), ()

    def _staying(self) -> int:
        """How many answers stay, of those that are left."""
        return max(1, math.ceil(self._keep * len(self.answers) - 1e-9))

    def _bound(self) -> None:
        """Have rows stand still after so many tokens only where some would be dropped."""
        drops = self._staying() < len(self.answers)
        self._rows.length = self._every if drops else math.inf

    def _drawn(self, values: Sequence[float]) -> int:
        """The row of one answer, in proportion to its weight."""
        log_weights = [self._beta * value if self._beta else 0.0 for value in values]
        if not -math.inf < max(log_weights) < math.inf:
            self.best.fail(self._error(f"the best of {len(values)} answers has r = {max(values)}"))
            return 0
        return drawn_by_weight(log_weights, coin(self._rows.seed, 0))
