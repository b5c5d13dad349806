"""A pending step: launched, and collected once its results are on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from ...grammar import FormulaError
from ..batch.batch import Batch
from ..batch.rewrite import read_on
from ..requests.answer import Answer
from ..requests.request import Request, TokenLogprobs
from .logprob_rows import token_logprobs
from .sampler import Source

Positions: TypeAlias = Sequence[tuple[Request, int]]  # of rows: whose they are, and tokens so far
# An error per row with an alarm, from a batch, the rows' positions, their alarms, and the sources.
Errors: TypeAlias = Callable[..., dict[int, FormulaError]]


class Verified(Protocol):
    """What a step has verified (``verification.Verified``)."""

    steps: Sequence[int]
    observed: int

    def kept(
        self, tokens: Sequence[int], wrong: Sequence[int], following: Sequence[int]
    ) -> list[list[int]]:
        """Per slot, the rows of the results that count."""

    def settle(self, batch: Batch, tokens: Sequence[Sequence[int]]) -> None:
        """Go on with these tokens."""


class Collected(NamedTuple):
    """What a step has drawn, per slot.

    Attributes:
        tokens: one; or, where tokens were drafted, those up to the first that was not.
        errors: by slots: a score was NaN, or every token excluded, after these tokens.
        logprobs: of each token, where they are wanted; else empty.
        unsure: whether its scores were unsure, where a search needs it; else 0.
        observed: per draft plan, what it would have drawn in each slot, where that was asked.
    """

    tokens: list[list[int]]
    errors: dict[int, FormulaError]
    logprobs: list[list[TokenLogprobs]]
    unsure: list[list[int]]
    observed: list[list[int]] = []  # noqa: RUF012  nobody writes to it


@dataclass(frozen=True)
class PendingStep:
    """A step that has been launched.

    Attributes:
        sources: what its alarms mean.
        requests: per slot then, and ``answers``, where the engine keeps them.
        logprobs: the rows of its results that hold log-probabilities.
        top_logprobs: of how many of the best tokens.
        results: on the host, what ``draw_together`` gives, once ``copied`` has happened.
        verified: where tokens were drafted, what ``results`` are of.
    """

    batch: Batch
    sources: list[Source]
    requests: list[Request]
    answers: list[Answer]
    logprobs: int
    top_logprobs: int
    results: Tensor
    copied: torch.cuda.Event | None
    verified: Verified | None = None

    def collected(self, errors_of: Errors) -> Collected:
        """What it has drawn; it waits until that is known."""
        if self.copied is not None:
            self.copied.synchronize()
        if self.verified is not None:
            return self._of_positions(self.verified, errors_of)
        batch, used = self.batch, len(self.requests)
        tokens, wrong, steps, *more = self.results[:, :used].tolist()
        errors: dict[int, FormulaError] = {}
        if any(wrong):
            positions = [(row, at - 1) for row, at in zip(self.requests, steps, strict=True)]
            errors = errors_of(batch, positions, wrong, self.sources)
        if batch.token_columns:
            read_on(batch, tokens)
        kept, unsure = list[list[int]](), list[list[int]]()
        for slot, token in enumerate(tokens):
            kept.append([] if slot in errors else [token])
            unsure.append([more[-1][slot] if len(more) > self.logprobs else 0])
        logprobs = [[each] for each in self._logprobs(used)] if self.logprobs else []
        return Collected(kept, errors, logprobs, unsure)

    def _of_positions(self, verified: Verified, errors_of: Errors) -> Collected:
        tokens, wrong, following, *more = self.results.tolist()
        at = len(more) - verified.observed
        more, observed = more[:at], more[at:]
        rows = verified.kept(tokens, wrong, following)
        firsts, lasts = [own[0] for own in rows], [own[-1] for own in rows]
        errors: dict[int, FormulaError] = {}
        if any(wrong[row] for row in lasts):
            before = verified.steps
            positions = [
                (request, first + len(own) - 1)
                for request, first, own in zip(self.requests, before, rows, strict=True)
            ]
            errors = errors_of(self.batch, positions, [wrong[row] for row in lasts], self.sources)
        right = [[row for row in own if not wrong[row]] for own in rows]
        logprobs = self._logprobs(len(tokens)) if self.logprobs else []
        unsure = more[-1] if len(more) > self.logprobs else [0] * len(tokens)

        def of_slots(values: Sequence[Any]) -> list[list[Any]]:
            return [[values[row] for row in own] for own in right]

        return Collected(
            of_slots(tokens), errors, of_slots(logprobs) if logprobs else [], of_slots(unsure),
            [[each[row] for row in firsts] for each in observed],
        )  # fmt: skip

    def _logprobs(self, used: int) -> list[TokenLogprobs]:
        rows = self.results[3 : 3 + self.logprobs, :used]
        return token_logprobs(rows, self.top_logprobs)
