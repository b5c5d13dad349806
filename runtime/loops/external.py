"""Rows that follow: somebody else chooses their tokens, and asks for the scores of the next.

For loops that are not the engine's. Answers may be taken back and exchanged between rows of one
prompt; what has been read of them is not read again. Nothing is drawn in here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...models import ModelError
from ..batch.rewrite import Rewrite, copy_slots, rewrite
from ..binding.bound import Bound
from ..engine.engine import MEASURE, Engine
from ..engine.step import alarms
from ..requests.request import Reading, Request
from ..scores.context import Context

Ids = list[int]


class ExternalRows:
    """Rows of one bound plan, each with an answer so far.

    Args:
        bound: the plan and its lanes; nobody else may use them as long as this is in use.
        requests: one per row; their ``max_new_tokens`` is the room to begin with.

    Attributes:
        answers: per row, the tokens that it has been given.
    """

    def __init__(self, bound: Bound, requests: Sequence[Request]) -> None:
        self._bound, self._engine = bound, Engine(bound)
        self._engine.step.unnormalised = frozenset()  # whoever asks may look at every score
        self._batch = self._engine.begin(requests, len(requests))
        self._batch.admit(requests)
        while self._batch.arriving:
            self._batch.read()
        self._room = max(request.max_new_tokens for request in requests)
        self._asked: tuple[Context, Tensor] | None = None
        self.answers: list[Ids] = [[] for _ in requests]

    @property
    def forwards(self) -> list[int]:
        """Per lane, how often it has run."""
        return self._engine.step.forwards

    def owners(self, lane: int) -> Tensor:
        """``(rows of the lane,)`` whose they are."""
        return self._batch.owners[lane]

    @torch.no_grad()
    def scores(self) -> Tensor:
        """``(rows, V)`` float32, minus infinity where the formula excludes a token.

        Raises:
            FormulaError: NaN, or every token excluded.
        """
        batch, step = self._batch, self._engine.step
        context = step.context(batch)
        scores = step.scores(batch, context)
        wrong = alarms(context, scores.amax(dim=-1)).tolist()
        steps = [len(answer) for answer in self.answers]
        self._engine.raise_for(batch.requests, wrong, list(context.broken), steps)
        self._asked = context, scores
        return scores

    @torch.no_grad()
    def go(self, answers: Sequence[Ids]) -> None:
        """Go on from these answers, one per row, whatever the rows have read.

        Raises:
            ModelError: a model has no room for one, or no token for a token.
        """
        self._check(answers)
        pairs = list(zip(answers, self.answers, strict=True))
        if self._asked is not None and all(new and new[:-1] == old for new, old in pairs):
            self._take([new[-1] for new in answers], *self._asked)
        elif any(new != old for new, old in pairs):
            self._rewrite(answers)
        self.answers, self._asked = [list(answer) for answer in answers], None

    def finish(self, rows: Sequence[int]) -> None:
        """Give rows up; each time the last row takes the place, from the highest number down."""
        self._batch.finish(rows)
        for row in sorted(rows, reverse=True):
            self.answers[row] = self.answers[-1]
            self.answers.pop()

    def _take(self, tokens: Ids, context: Context, scores: Tensor) -> None:
        """One token more for every row."""
        batch = self._batch
        self._make_room(max(map(len, self.answers)) + 1)
        drawn = torch.tensor(tokens, device=batch.device)
        excluded = scores.gather(1, drawn[:, None])[:, 0] == -torch.inf
        self._engine.step.commit(batch, context, drawn)
        batch.read_on(tokens)
        # A reward model is moved to the candidate that was chosen, and this was none: read it anew.
        rewrites = {
            row: Rewrite([*self.answers[row], tokens[row]], len(self.answers[row]), (0, 0), 0.0)
            for row, out in enumerate(excluded.tolist())
            if out
        }
        rewrite(batch, rewrites)

    def _rewrite(self, answers: Sequence[Ids]) -> None:
        """Exchange rows where another has read more of an answer, and then read the rest."""
        self._make_room(max(map(len, answers)))
        self._make_room_in_other_vocabularies(answers)
        sources = [self._source(row, answer) for row, answer in enumerate(answers)]
        copy_slots(self._batch, sources)
        rewrites = {}
        for row, (answer, source) in enumerate(zip(answers, sources, strict=True)):
            if answer != self.answers[source]:
                read = _shared(answer, self.answers[source])
                rewrites[row] = Rewrite(answer, read, (0, 0), 0.0)
        rewrite(self._batch, rewrites)

    def _source(self, row: int, answer: Ids) -> int:
        """The row of the same request that has read most of an answer; itself, if it is one."""
        requests = self._batch.requests
        one = requests[row]
        alike = [
            other
            for other, request in enumerate(requests)
            if (request.prompt, request.values) == (one.prompt, one.values)
        ]
        read = {other: _shared(answer, self.answers[other]) for other in alike}
        return max(alike, key=lambda other: (read[other], other == row))

    def _make_room(self, tokens: int) -> None:
        """Room for answers of so many tokens in every lane."""
        if tokens <= self._room:
            return
        more = max(self._room, tokens - self._room, MEASURE)
        for lane in self._bound.lanes:
            lane.grow(lane.rows.capacity + more)
        self._batch.recorded.clear()
        self._room += more

    def _make_room_in_other_vocabularies(self, answers: Sequence[Ids]) -> None:
        """The same in the lanes of other vocabularies, where a token may be read as several."""
        for bound_term, prompts in zip(self._bound.terms, self._prompts(), strict=True):
            if bound_term.token_map is not None:
                lane = self._bound.lanes[bound_term.lane]
                pairs = zip(prompts, answers, strict=True)
                longest = max(len(ids) + len(bound_term.term_ids(answer)) for ids, answer in pairs)
                if longest >= lane.rows.capacity:
                    lane.grow(2 * longest)
                    self._batch.recorded.clear()

    def _prompts(self) -> list[Sequence[Reading]]:
        """Per term, what each row read before its answer."""
        return list(zip(*(request.prompts for request in self._batch.requests), strict=True))

    def _check(self, answers: Sequence[Ids]) -> None:
        """Refuse answers that some model cannot read."""
        positions = self._bound.positions
        new = [a[_shared(a, old) :] for a, old in zip(answers, self.answers, strict=True)]
        for bound_term, prompts in zip(self._bound.terms, self._prompts(), strict=True):
            for prompt, answer, tokens in zip(prompts, answers, new, strict=True):
                bound_term.check(tokens, "choose another token")
                own = bound_term.term_ids(answer) if bound_term.token_map else answer
                length = len(prompt) + len(own)
                if positions is not None and length > positions:
                    raise ModelError(
                        f"a text of {length} tokens is too long for {bound_term.term}: the models "
                        f"read at most {positions}",
                        "give fewer max_new_tokens",
                        bound_term.term.model,
                    )


def _shared(one: Ids, other: Ids) -> int:
    """Tokens with which both begin."""
    if one[: len(other)] == other:
        return len(other)
    differ = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))
