"""The best of several answers, and the best beams, block by block.

Block-level controlled decoding (Mudgal et al. 2024), weak-to-strong search (Zhou et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...requests.answer import Answer
from .group import Move, Rows, Scores


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

    def select(self, values: Sequence[float], scores: Scores) -> Move:
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
