"""The values of texts in a search: what its models say of each, and the reward expression of that.

A reward model gives its reward of a text, and a language model the log-probability of its answer,
which steps add up as tokens are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....formula import Scalar
from ....formula.scalar import AnswerLength, has
from ....grammar import FormulaError
from ...batch.batch import Batch
from ...batch.changes import upload_changes
from ...batch.text_rewards import text_rewards
from ...binding.bound import Bound
from ...engine.candidate_rewards import labelled
from ...requests.request import Request
from ...requests.reward_failures import reward_failure
from ...scores.expressions import reward_value


class Values:
    """What the stage that searches says of the texts of a batch.

    Attributes:
        terms: what each model said of the texts that were valued last, ``(slots, 1)`` each.
    """

    def __init__(self, bound: Bound) -> None:
        assert bound.plan.search is not None
        self._bound, self._plan = bound, bound.plan
        self._address, stage = bound.plan.search
        self._reward: Scalar = stage.r
        self._by_length = has(AnswerLength, self._reward.expression)
        self.terms: list[Tensor] = []

    @torch.no_grad()
    def of(self, batch: Batch, lengths: Sequence[int]) -> Tensor:
        """``(slots,)`` the value of every text so far, whose answers have so many tokens."""
        used = slice(batch.count)
        upload_changes([batch])
        self.terms = [said[used, None] for said in self._of_terms(batch, lengths)]

        def number(scalar: Scalar) -> Tensor:
            column = self._plan.columns[scalar]
            values: Tensor = batch.values[used, column : column + 1]
            return values

        answered = None
        if self._by_length:
            counted = [[max(length, 1.0)] for length in lengths]
            answered = torch.tensor(counted, device=batch.device)
        value = reward_value(self._reward, self.terms, answered, number)
        if not isinstance(value, Tensor):  # the same number for every text
            return torch.full((batch.count,), value, device=batch.device)
        return value[:, 0]

    def with_scores(
        self, batch: Batch, lengths: Sequence[int]
    ) -> tuple[list[float], list[list[float]]]:
        """Per slot, the value of its text, and its log-probability by each language model.

        The latter are empty without such models; a row that goes on from another text takes over
        that one's. The device is waited for once.
        """
        values, scores = self.of(batch, lengths), batch.search_scores
        if scores is None:
            return values.tolist(), [[] for _ in lengths]
        rows = torch.cat((values[:, None], scores[: len(values)]), dim=1).tolist()
        return [row[0] for row in rows], [row[1:] for row in rows]

    def said(self, slot: int) -> list[float]:
        """What each model said of the text in a slot that was valued last."""
        return [float(each[slot, 0]) for each in self.terms]

    def error(self, slot: int, request: Request) -> FormulaError:
        """The error of a request's value, no finite number, of the texts that were valued last."""
        plan, reward, row = self._plan, self._reward, request.index
        if failure := reward_failure(self._bound, self._address, request, f"for row {row}"):
            return failure
        said = self.said(slot)
        for term, value in zip(reward.terms, said, strict=True):
            if not abs(value) < torch.inf:
                gave = "NaN" if value != value else "infinity"
                problem = f"{term} gave {gave} for row {row}"
                cure = "check its weights and dtype: float16 overflows where bfloat16 does not"
                return plan.error(problem, plan.reward_spans[reward.span, term], cure)
        return plan.reward_error(reward, f"for row {row}")

    def _of_terms(self, batch: Batch, lengths: Sequence[int]) -> list[Tensor]:
        """Per term, ``(width,)`` float32, what its model says; 0 of rows that do not need it."""
        outputs = dict[int, Tensor]()
        own = [each for each in batch.row_maps if each.term.address == self._address]
        scores = iter(() if batch.search_scores is None else batch.search_scores.unbind(1))
        columns = []
        for row_map in own:
            if row_map.term.language:
                columns.append(next(scores)[: batch.width])
            elif not row_map.live:
                columns.append(torch.zeros(batch.width, device=batch.device))
            else:
                lane = row_map.term.lane
                if lane not in outputs:
                    outputs[lane] = text_rewards(batch, lane, lengths)
                rewards = labelled(outputs[lane], row_map)
                columns.append(torch.where(row_map.present, rewards, 0.0))
        return columns
