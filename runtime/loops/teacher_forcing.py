"""Teacher forcing: a step is scored, and then the caller's token takes the place of a draw.

Every loop that chooses its tokens itself goes through here: scores along a completion,
explanations, log-likelihoods, and rows whose tokens a caller picks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from ...grammar import FormulaError
from ..batch.batch import Batch
from ..batch.rewrite import read_on
from ..engine.pending import Positions
from ..engine.sampler import Source
from ..engine.step import Step
from ..requests.request import Request
from ..scores.context import Context, Record
from ..scores.undrawn import alarms


class Stepping(Protocol):
    """An engine, as far as somebody else chooses its tokens."""

    step: Step

    @property
    def claim(self) -> object:
        """Of whoever came last, who alone may go on."""

    def begin(self, requests: Sequence[Request], slots: int) -> Batch:
        """Empty slots for these requests."""

    def turn(self, claim: object = None) -> AbstractContextManager[None]:
        """Have the lanes to oneself."""

    def errors(
        self, batch: Batch, rows: Positions, alarms: Sequence[int], sources: Sequence[Source]
    ) -> dict[int, FormulaError]:
        """An error per row with an alarm."""


def scored(
    engine: Stepping,
    batch: Batch,
    steps: Sequence[int],
    next_tokens: Tensor | None = None,
    record: Record | None = None,
) -> tuple[Context, Tensor]:
    """One step's context and its ``(slots, V)`` scores, of which nothing is drawn.

    Args:
        engine: whose step it is.
        batch: its rows.
        steps: per slot, the tokens of the answer so far, for an error.
        next_tokens, record: of the context.

    Raises:
        FormulaError: NaN, or every token excluded.
    """
    context = engine.step.context(batch, next_tokens)
    context.record = record
    if record is None:  # an explanation alone is of what a request's noise decides
        context.keys = None
    scores = engine.step.scores(batch, context)
    check(engine, batch, context, scores, list(zip(batch.requests, steps, strict=True)))
    return context, scores


def check(
    engine: Stepping, batch: Batch, context: Context, scores: Tensor, rows: Positions
) -> None:
    """Raise the first error of scores ``(rows, V)``, where they hold NaN or exclude every token."""
    wrong = alarms(context, scores.amax(dim=-1)).tolist()
    if any(wrong):
        errors = engine.errors(batch, rows, wrong, list(context.broken))
        raise next(iter(errors.values()))


def commit(engine: Stepping, batch: Batch, context: Context, tokens: Sequence[int]) -> None:
    """Go on with one token per slot, whatever the scores were."""
    engine.step.commit(batch, context, torch.tensor(tokens, device=batch.device))
    if batch.token_columns:
        read_on(batch, tokens)


@torch.no_grad()
def teacher_forced(
    engine: Stepping, request: Request, tokens: Sequence[int], record: bool = False
) -> Iterator[tuple[Batch, Context, Tensor]]:
    """Read a request's given tokens but for the last, one after the other, whatever the scores are.

    With ``record``, each context keeps what the stages did.

    Yields:
        Before each token: the batch, what the step knows, and the ``(1, V)`` scores.

    Raises:
        FormulaError: NaN, or a step in which every token is excluded.
    """
    with engine.turn():
        batch, claim = engine.begin([request], 1), engine.claim
        batch.admit([request])
        batch.read()
    for step, token in enumerate(tokens):
        with engine.turn(claim):
            next_tokens = torch.tensor([token], device=batch.device)
            kept = Record() if record else None
            context, scores = scored(engine, batch, [step], next_tokens, kept)
        yield batch, context, scores
        if step < len(tokens) - 1:
            with engine.turn(claim):
                commit(engine, batch, context, [token])


def scores_along(engine: Stepping, request: Request, tokens: Sequence[int]) -> Tensor:
    """Scores before each of the given tokens and after the last.

    Returns:
        ``(len(tokens) + 1, V)`` float32, minus infinity where a token is excluded.
    """
    steps = teacher_forced(engine, request, [*tokens, 0])  # the last is scored and never read
    return torch.stack([scores[0] for _, _, scores in steps])
