"""A group: one request's answers in the making, and what a search keeps of them.

A group takes the tokens that its rows have drawn and, when it is due, the values of its answers so
far; it returns what each row goes on with. No tensors in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from ...batch.rewrite import Rewrite
from ...requests.answer import Answer

# Per row: whose answer, and where it is rewritten.
Move: TypeAlias = tuple[Sequence[int], Sequence[Rewrite]]
Rows: TypeAlias = Sequence[Sequence[int]]
Scores: TypeAlias = Sequence[Sequence[float]]  # per row, of its answer by the search's models


class Group(Protocol):
    """One request's rows in a search.

    Attributes:
        best: the answer of the request, once the group is over.
        due: whether its answers are to be valued before the next step.
    """

    best: Answer
    due: bool

    @property
    def answers(self) -> list[Answer]:
        """One per row."""

    @property
    def over(self) -> bool:
        """Whether the request is answered."""

    @property
    def rooms(self) -> list[int]:
        """Tokens that each row may take before the next selection; 0 where it stands still."""

    def take(self, tokens: Rows, unsure: Rows) -> list[int]:
        """Tokens per row, and whether the scores of each were unsure; how many each row takes."""

    def select(self, values: Sequence[float], scores: Scores) -> Move:
        """What each row goes on with, given the value of its answer.

        ``scores`` are those of its rows' answers: a row that is rewritten to an answer takes its
        scores along, ``Rewrite.search_scores``, which nobody looks into here.
        """
