"""The best beams, block by block.

Block-level controlled decoding (Mudgal et al. 2024), weak-to-strong search (Zhou et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

from .group import Move, Scores
from .segment_rows import SegmentGroup, SegmentRows


class Blocks(SegmentGroup):
    """Answers of several beams, which go on from the best of them block by block.

    Args:
        rows: the answers; a block is a segment of each.
        beams: that are kept.
    """

    def __init__(self, rows: SegmentRows, beams: int) -> None:
        super().__init__(rows)
        self._beams, self._round = beams, 0

    def select(self, values: Sequence[float], scores: Scores) -> Move:
        """The best beams, repeated; a text that was drawn twice counts once."""
        self.due, self._round = False, self._round + 1
        order = sorted(range(len(values)), key=lambda i: -values[i])
        self.best = self.answers[order[0]]
        if self.over:
            return (), ()
        texts = {tuple(self.answers[i].tokens): i for i in order[::-1]}
        kept = sorted(texts.values(), key=order.index)[: self._beams]
        chosen = [kept[i * len(kept) // len(values)] for i in range(len(values))]
        self._rows.go_on(chosen)
        if not self._rows.until:  # all rows have come as far
            return chosen, ()
        return chosen, self._rows.rewrites([scores[i] for i in chosen], self._round)
