"""The rows of a search between two selections: each draws one segment of its answer.

A segment ends with the answer, after so many tokens, with the token that completes a text, or
before one whose scores are unsure, whichever comes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...batch.rewrite import Rewrite
from ...requests.answer import Answer
from ...scores.noise import seed_key

ROUNDS = 16  # bits of a row's number, below those of the round in which it draws


class SegmentRows:
    """Answers, one per row, each of which draws a segment and then stands still.

    Args:
        answers: one per row. Where a text ends segments, they look for it (``answer_to``).
        seed: of the request's noise.
        length: tokens of a segment at most.
        until: whether a text ends segments.
    """

    def __init__(
        self, answers: list[Answer], seed: int, length: float = math.inf, until: bool = False
    ) -> None:
        self.answers, self.seed, self.length, self.until = answers, seed, length, until
        self.begin()

    def begin(self) -> None:
        """Begin a segment in every row, where its answer ends now."""
        self.starts = [len(answer.tokens) for answer in self.answers]
        self.ended = [answer.finish_reason is not None for answer in self.answers]
        self._found = [each.found_in_text if self.until else 0 for each in self.answers]

    @property
    def over(self) -> bool:
        """Whether every answer has ended."""
        return all(answer.finish_reason for answer in self.answers)

    @property
    def rooms(self) -> list[int]:
        rooms = list[int]()
        for answer, start, ended in zip(self.answers, self.starts, self.ended, strict=True):
            most = min(start + self.length, answer.request.max_new_tokens)
            rooms.append(0 if ended else math.ceil(most) - len(answer.tokens))
        return rooms

    def take(
        self,
        tokens: Sequence[Sequence[int]],
        unsure: Sequence[Sequence[int]],
        shortest: float = 0,
    ) -> list[int]:
        """Have every row take tokens up to the end of its segment; how many each takes.

        A segment of at least ``shortest`` tokens ends before one whose scores are unsure.
        """
        taken = []
        for row, own in enumerate(zip(tokens, unsure, strict=True)):
            before = len(self.answers[row].tokens)
            self._take(row, *own, shortest)
            taken.append(len(self.answers[row].tokens) - before)
        return taken

    def _take(
        self, row: int, tokens: Sequence[int], unsure: Sequence[int], shortest: float
    ) -> None:
        answer = self.answers[row]
        for token, is_unsure in zip(tokens, unsure, strict=True):
            drawn = len(answer.tokens) - self.starts[row]
            if self.ended[row] or (is_unsure and drawn >= shortest):
                self.ended[row] = True
                return
            answer.add(token)
            self.ended[row] = (
                answer.finish_reason is not None
                or drawn + 1 >= self.length
                or (self.until and answer.found_in_text > self._found[row])
            )

    def go_on(self, chosen: Sequence[int]) -> None:
        """Have each row go on from the answer of another, in a new segment."""
        rows = zip(chosen, self.answers, strict=True)
        self.answers = [self.answers[source].copied(own.request) for source, own in rows]
        self.begin()

    def rewrites(self, scores: Sequence[Sequence[float]], number: int) -> list[Rewrite]:
        """Every row at the end of its answer, with new noise.

        Rows whose segments ended have drawn on, and one that copies a shorter answer draws for
        positions that it has drawn for: the noise of one round says nothing of the next.

        Args:
            scores: of each row's answer, by the models of a search.
            number: of the round, from 1.
        """
        return [
            Rewrite(answer.tokens, len(answer.tokens), row_key(self.seed, number, row), own)
            for row, (answer, own) in enumerate(zip(self.answers, scores, strict=True))
        ]


class SegmentGroup:
    """A request's rows, valued when the segments of all have ended; groups of segments extend it.

    Attributes are those of ``Group``.

    Args:
        rows: the answers.
        shortest: tokens of a segment that ends before one whose scores are unsure, at least.
    """

    def __init__(self, rows: SegmentRows, shortest: float = 0) -> None:
        self._rows, self._shortest = rows, shortest
        self.best, self.due = rows.answers[0], False

    @property
    def answers(self) -> list[Answer]:
        return self._rows.answers

    @property
    def over(self) -> bool:
        return self._rows.over

    @property
    def rooms(self) -> list[int]:
        return self._rows.rooms

    def take(self, tokens: Sequence[Sequence[int]], unsure: Sequence[Sequence[int]]) -> list[int]:
        """Tokens per row, and whether the scores of each were unsure; how many each row takes."""
        taken = self._rows.take(tokens, unsure, self._shortest)
        self.due = all(self._rows.ended)
        return taken


def row_key(seed: int, number: int, row: int) -> tuple[int, int]:
    """The noise of a row in a round; of the first, that of the request's sample ``row``."""
    return seed_key(seed, (number << ROUNDS) + row)
