"""A search that waits for its slots again: its group, and where each row was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...batch.batch import Batch
from ...batch.changes import upload_changes
from ...batch.rewrite import Rewrite, rewrite
from ...requests.answer import Answer
from .group import Group


@dataclass(frozen=True)
class Suspended:
    """A group without slots.

    Attributes:
        group: with its answers so far.
        rows: per answer, what its row goes on with.
        taken: steps so far.
    """

    group: Group
    rows: Sequence[Rewrite]
    taken: int

    @property
    def answers(self) -> Sequence[Answer]:
        """One per row."""
        return self.group.answers

    @property
    def drawn(self) -> dict[int, Sequence[int]]:
        """The tokens of each row, by the ids of their requests."""
        return {id(answer.request): answer.tokens for answer in self.answers}

    def resume(self, batch: Batch, slots: Sequence[int]) -> None:
        """Have slots that have read the answers go on with what the rows had."""
        rewrite(batch, dict(zip(slots, self.rows, strict=True)))


def suspended(group: Group, batch: Batch, slots: Sequence[int], taken: int) -> Suspended:
    """A group as it is now, whose rows are in these slots; what they drew too far is left out."""
    upload_changes([batch])  # so that scores are those of the slots
    keys, scores = batch.state.noise()[0], batch.search_scores
    rows = []
    for slot, answer in zip(slots, group.answers, strict=True):
        own: Sequence[Any] = () if scores is None else scores[slot].tolist()
        rows.append(Rewrite([*answer.tokens], len(answer.tokens), keys[slot], own))
    return Suspended(group, rows, taken)


def drawn_of(each: Mapping[int, Suspended]) -> dict[int, Sequence[int]]:
    """The tokens of all rows of suspended searches, by the ids of the rows' requests."""
    return {key: tokens for search in each.values() for key, tokens in search.drawn.items()}
