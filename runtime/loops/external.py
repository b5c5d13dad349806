"""External rows: rows whose tokens the caller picks, for loops that are not the engine's.

Answers may be taken back and exchanged between rows of one prompt; what has been read of them is
not read again. Nothing is drawn in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...models import ModelError
from ..batch.changes import upload_changes
from ..batch.rewrite import Rewrite, copy_slots, grow, rewrite
from ..binding.bound import Bound
from ..engine.engine import MEASURE, Engine
from ..requests.answer import Answer
from ..requests.request import Request, check_ids
from ..scores.context import Context
from .teacher_forcing import commit, scored

Ids = list[int]


class ExternalRows:
    """Rows of one bound plan, a request each, whose ``max_new_tokens`` is the room to begin with.

    Nobody else may use the lanes as long as this is in use.

    Attributes:
        answers: per row, the tokens that the caller has picked.
    """

    def __init__(self, bound: Bound, requests: Sequence[Request]) -> None:
        self._bound, self._engine = bound, Engine(bound, capture=False)
        self._engine.step.unnormalised = frozenset()  # the caller may look at every score
        self._engine.step.goes_back = True
        requests = _sharing_states(requests)
        self._batch = self._engine.begin(requests, len(requests))
        self._batch.admit(requests)
        while self._batch.arriving is not None:
            self._batch.read()
        self._room = max(request.max_new_tokens for request in requests)
        self._scored: tuple[Context, Tensor] | None = None
        self.answers: list[Ids] = [[] for _ in requests]

    @property
    def forwards(self) -> list[int]:
        """Per lane, how often it has run."""
        return self._engine.step.forwards

    def owners(self, lane: int) -> Tensor:
        """``(rows of the lane,)`` the external row that each belongs to."""
        upload_changes([self._batch])
        return self._batch.owners[lane]

    @torch.no_grad()
    def scores(self) -> Tensor:
        """``(rows, V)`` float32, minus infinity where the formula excludes a token.

        Raises:
            FormulaError: NaN, or every token excluded.
        """
        steps = list(map(len, self.answers))
        self._make_room(max(steps, default=0) + 1)  # for the token that follows
        self._scored = scored(self._engine, self._batch, steps)
        return self._scored[1]

    def positions(
        self, answers: Sequence[Answer], has_ended: Callable[[int], bool]
    ) -> Iterator[Tensor]:
        """The scores of the next token, and of those after it, if they are known before it is.

        Args:
            answers: per row; before the next scores, the caller adds the token that it has picked.
            has_ended: of a row, whether the caller wants no more of it; asked after each.

        Yields:
            As ``scores``.
        """
        yield self.scores()

    @torch.no_grad()
    def advance(self, answers: Sequence[Ids]) -> None:
        """Go on from these answers, one per row, whatever the rows have read.

        Raises:
            ModelError: a model has no room for one, or no token for a token.
        """
        self._check(answers)
        pairs = list(zip(answers, self.answers, strict=True))
        if self._scored is not None and all(new and new[:-1] == old for new, old in pairs):
            self._append([new[-1] for new in answers], *self._scored)
        elif any(new != old for new, old in pairs):
            self._rewrite(answers)
        self.answers, self._scored = [list(answer) for answer in answers], None

    def finish(self, rows: Sequence[int], *per_row: list[int]) -> None:
        """Give rows up; each time the last row takes the place, also in the caller's lists."""
        self._batch.finish(rows, self.answers, *per_row)

    def _append(self, tokens: Ids, context: Context, scores: Tensor) -> None:
        """One token more for every row."""
        batch = self._batch
        ids = torch.tensor(tokens, device=batch.device)
        excluded = scores.gather(1, ids[:, None])[:, 0] == -torch.inf
        commit(self._engine, batch, context, tokens)
        # A reward model is moved to the chosen candidate, and this was none: it reads it anew.
        keys = [request.key for request in batch.requests]
        rewrites = {
            row: Rewrite([*self.answers[row], tokens[row]], len(self.answers[row]), keys[row])
            for row, is_excluded in enumerate(excluded.tolist())
            if is_excluded
        }
        rewrite(batch, rewrites)

    def _rewrite(self, answers: Sequence[Ids]) -> None:
        """Exchange rows where another has read more of an answer, and then read the rest."""
        self._make_room(max(map(len, answers)))
        self._make_room_in_other_vocabularies(answers)
        sources = [self._source(row, answer) for row, answer in enumerate(answers)]
        copy_slots(self._batch, sources)
        keys = [request.key for request in self._batch.requests]
        rewrites = {
            row: Rewrite(answer, _shared(answer, self.answers[source]), keys[row])
            for row, (answer, source) in enumerate(zip(answers, sources, strict=True))
            if answer != self.answers[source]
        }
        rewrite(self._batch, rewrites)

    def _source(self, row: int, answer: Ids) -> int:
        """The row of the same request that has read most of an answer; itself, if it is one."""
        own = self._batch.requests[row]
        read = {
            other: _shared(answer, self.answers[other])
            for other, request in enumerate(self._batch.requests)
            if _alike(request, own)
        }
        return max(read, key=lambda other: (read[other], other == row))

    def _make_room(self, tokens: int) -> None:
        """Room for answers of so many tokens in every lane."""
        if tokens <= self._room:
            return
        more = max(self._room, tokens - self._room, MEASURE)
        for lane in self._bound.lanes:
            capacity = lane.rows.capacity + more
            lane.grow(capacity, tokens=lane.rows.count * capacity)
        self._batch.state.grow(more)
        self._batch.changed()
        self._room += more

    def _make_room_in_other_vocabularies(self, answers: Sequence[Ids]) -> None:
        """The same in the lanes of other vocabularies, where a token may be read as several."""
        for term, prompts in zip(self._bound.terms, self._prompts(), strict=True):
            if term.token_map is not None:
                lane = self._bound.lanes[term.lane]
                pairs = zip(prompts, answers, strict=True)
                longest = max(len(ids) + len(term.term_ids(answer)) for ids, answer in pairs)
                grow(lane, longest + 1, lane.rows.count)

    def _prompts(self) -> list[Sequence[Sequence[int]]]:
        """Per term, what each row read before its answer."""
        return list(zip(*(request.prompts for request in self._batch.requests), strict=True))

    def _check(self, answers: Sequence[Ids]) -> None:
        """Refuse answers that some model cannot read."""
        positions = self._bound.positions
        new = [a[_shared(a, old) :] for a, old in zip(answers, self.answers, strict=True)]
        for term, prompts in zip(self._bound.terms, self._prompts(), strict=True):
            for prompt, answer, tokens in zip(prompts, answers, new, strict=True):
                check_ids(tokens, self._bound.vocabulary, "answer")
                term.check(tokens, "choose another token")
                own = term.term_ids(answer) if term.token_map else answer
                length = len(prompt) + len(own)
                if positions is not None and length > positions:
                    problem = f"a text of {length} tokens is too long for {term.term}: the models "
                    problem += f"read at most {positions}"
                    raise ModelError(problem, "give fewer max_new_tokens", term.term.model)


def _sharing_states(requests: Sequence[Request]) -> list[Request]:
    """The same requests; those whose rows may be exchanged have the states of the first."""
    shared = list[Request]()
    for request in requests:
        alike = (each for each in shared if _alike(each, request))
        shared.append(replace(request, states=next(alike, request).states))
    return shared


def _alike(request: Request, other: Request) -> bool:
    """Whether a row of one may go on as a row of the other."""
    return (request.prompt, request.values) == (other.prompt, other.values)


def _shared(first: Ids, second: Ids) -> int:
    """Tokens with which both begin."""
    if first[: len(second)] == second:
        return len(second)
    differ = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differ, min(len(first), len(second)))
