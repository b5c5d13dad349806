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
from ...requests.request import Request
from ...requests.reward_failures import reward_failure


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
        if batch.search_score is not None:
            return batch.search_score[: batch.count]
        total = torch.zeros(batch.width, device=batch.device)
        used = slice(batch.width)
        for row_map in batch.row_maps:
            if row_map.term.address == self._address and row_map.live:
                outputs = text_rewards(batch, row_map.term.lane, lengths)
                column = self._plan.columns[r.parts[row_map.number][0]]
                weighed = batch.values[used, column] * labelled(outputs, row_map)
                total += torch.where(row_map.present, weighed, 0.0)
        if r.shift is not None:
            total += batch.values[used, self._plan.columns[r.shift]]
        return total[: batch.count]

    def nan(self, request: Request) -> FormulaError:
        """The error of a request of whose answers a value is NaN."""
        terms, where = self._bound.rewards[self._address], f"for row {request.index}"
        if failure := reward_failure(self._plan, enumerate(terms), request, where):
            return failure
        names = " or ".join(str(term.term) for term in terms)
        return self._plan.error(f"{names} gave NaN", self._plan.spans[terms[0].term])
