"""External rows that are drafted: the scores of several positions of each are known at once.

The caller picks its tokens as without drafts, and is given the scores of further positions as long
as what it picks is what was drafted, in every row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..batch.batch import Batch
from ..batch.changes import upload_changes
from ..batch.cost import RunStats
from ..batch.pages import extend
from ..batch.rewrite import replace_drafted
from ..binding.bound import Bound
from ..engine.chunked_step import Chunk
from ..engine.drafting import Draft, Proposal, drafted, proposed
from ..engine.engine import Engine
from ..engine.launch import drawn_by
from ..requests.answer import Answer
from ..requests.request import Request
from ..scores.context import Context
from ..scores.undrawn import alarms
from .external import ExternalRows, Ids
from .speculation.speculation import Speculation


@dataclass
class _Round:
    """Scores behind the tokens of a draft.

    Attributes:
        context: of ``scores``, ``(positions of all rows, V)``.
        firsts: of each row, the first of its positions.
        observed: per draft plan, what it would have drawn for each row, where that is asked.
    """

    draft: Draft
    context: Context
    scores: Tensor
    firsts: Sequence[int]
    observed: Sequence[Sequence[int]]

    def at(self, engine: Engine, batch: Batch, number: int, rows: Sequence[int]) -> Tensor:
        """``(all rows, V)`` the scores of one position; of rows that are not asked for, of any.

        Raises:
            FormulaError: NaN, or every token excluded, in one of these rows.
        """
        last = len(self.scores) - 1
        places = torch.tensor(self.firsts, device=self.scores.device) + number
        wrong = alarms(self.context, self.scores.amax(dim=-1)).tolist()
        if any(wrong[self.firsts[row] + number] for row in rows):
            steps = [step + number for step in batch.state.noise()[1]]
            alarmed = [
                wrong[first + number] if row in rows else 0 for row, first in enumerate(self.firsts)
            ]
            where = list(zip(batch.requests, steps, strict=True))
            errors = engine.errors(batch, where, alarmed, list(self.context.broken))
            raise next(iter(errors.values()))
        return self.scores[places.clamp(max=last)]


class DraftedRows(ExternalRows):
    """External rows whose requests say who drafts them; with the draft plans of a bound plan.

    Args:
        stats: where rounds are counted.
    """

    def __init__(self, bound: Bound, requests: Sequence[Request], stats: RunStats) -> None:
        super().__init__(bound, requests)
        self._engine.stats = stats
        self._speculation = Speculation(self._engine)
        self._round: _Round | None = None

    @torch.no_grad()
    def positions(
        self, answers: Sequence[Answer], has_ended: Callable[[int], bool]
    ) -> Iterator[Tensor]:
        batch, before = self._batch, [len(each.tokens) for each in answers]
        upload_changes([batch])
        rooms = [each.request.max_new_tokens - len(each.tokens) for each in answers]
        proposal = self._speculation.proposal(answers, rooms)
        if proposal is not None and extend(batch, max(proposal.counts)):
            proposal = self._speculation.withdrawn(answers)
        observed: Sequence[Sequence[int]] = ()
        if proposal is None:
            yield self.scores()
        else:
            self._round = self._verified(proposal)
            observed = self._round.observed
            yield from self._positions(self._round, answers, has_ended)
        tokens = [each.tokens[known:] for each, known in zip(answers, before, strict=True)]
        self._engine.stats.tokens += sum(map(len, tokens))
        self._speculation.record(tokens, observed)

    @torch.no_grad()
    def advance(self, answers: Sequence[Ids]) -> None:
        if self._round is None:
            super().advance(answers)
            return
        self._check(answers)
        self._make_room(max(map(len, answers)))
        self._make_room_in_other_vocabularies(answers)
        pairs = zip(answers, self.answers, strict=True)
        tokens = [answer[len(known) :] for answer, known in pairs]
        replace_drafted(self._batch, self._round.draft.tokens, tokens)
        self.answers, self._round = [list(answer) for answer in answers], None

    def _positions(
        self, verified: _Round, answers: Sequence[Answer], has_ended: Callable[[int], bool]
    ) -> Iterator[Tensor]:
        """Scores up to the first token, in any row that goes on, that is not the drafted one."""
        for number in range(max(verified.draft.counts) + 1):
            rows = [row for row in range(len(answers)) if not has_ended(row)]
            yield verified.at(self._engine, self._batch, number, rows)
            goes_on = [row for row in rows if not has_ended(row)]
            agrees = (
                answers[row].tokens[-1:] == [*verified.draft.tokens[row][number : number + 1]]
                for row in goes_on
            )
            if not goes_on or not all(agrees):
                return

    def _verified(self, proposal: Proposal) -> _Round:
        """Draft tokens, and have every row read them."""
        engine, batch, counts = self._engine, self._batch, proposal.counts
        self._make_room(max(map(len, self.answers)) + max(counts) + 1)
        batch.state.propose(counts)
        batch.stale = True
        upload_changes([batch])
        if proposal.tokens is not None:
            draft = proposed(batch, proposal.tokens)
        else:
            draft = drafted(engine.draft_steps[proposal.plan], batch, counts).on_host()
        positions = [count + 1 for count in counts]
        chunk = Chunk(engine.step, batch, positions, draft.tokens, draft.logits)
        context = chunk.context()
        scores = engine.step.combined(context)
        firsts = [0, *accumulate(positions)][:-1]
        observed = [
            drawn_by(each, chunk, context)[firsts].tolist()
            for each in engine.draft_steps
            if proposal.observes
        ]
        return _Round(draft, context, scores, firsts, observed)
