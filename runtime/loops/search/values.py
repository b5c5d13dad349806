"""The values of texts in a search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....grammar import FormulaError
from ...batch.batch import Batch
from ...batch.changes import upload_changes
from ...batch.text_rewards import text_rewards
from ...binding.bound import Bound
from ...engine.candidate_rewards import labelled


class Values:
    """What the stage that searches says of the texts of a batch."""

    def __init__(self, bound: Bound, batch: Batch) -> None:
        assert bound.plan.search is not None
        self._bound, self._plan, self._batch = bound, bound.plan, batch
        self._address, self._stage = bound.plan.search

    @torch.no_grad()
    def of(self, lengths: Sequence[int]) -> Tensor:
        """``(slots,)`` the value of every text so far."""
        batch, r = self._batch, self._stage.r
        upload_changes([batch])
        total = torch.zeros(batch.width, device=batch.device)
        used = slice(batch.width)
        if batch.search_scores is not None:
            numbers = [r.parts[number][0] for number in self._bound.search_language]
            columns = [self._plan.columns[each] for each in numbers]
            total += (batch.values[used][:, columns] * batch.search_scores[used]).sum(dim=1)
            return total[: batch.count]
        for row_map in batch.row_maps:
            if row_map.term.address == self._address and row_map.live:
                outputs = text_rewards(batch, row_map.term.lane, lengths)
                column = self._plan.columns[r.parts[row_map.number][0]]
                weighed = batch.values[used, column] * labelled(outputs, row_map)
                total += torch.where(row_map.present, weighed, 0.0)
        if r.shift is not None:
            total += batch.values[used, self._plan.columns[r.shift]]
        return total[: batch.count]

    def scores(self) -> list[list[float]]:
        """Per slot, what its text's value is made of: its log-probability by each language model.

        Empty without such models. A row that goes on from another text takes over that one's.
        """
        if self._batch.search_scores is None:
            return [[] for _ in range(self._batch.count)]
        return self._batch.search_scores[: self._batch.count].tolist()

    def nan(self) -> FormulaError:
        """The error of a value that is NaN."""
        terms = self._bound.rewards[self._address]
        names = " or ".join(str(term.term) for term in terms)
        return self._plan.error(f"{names} gave NaN", self._plan.spans[terms[0].term])
