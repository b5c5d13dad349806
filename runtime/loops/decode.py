"""Decoding: a run over given requests, from the first step to the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..batch.pages import check_it_fits
from ..engine.engine import Engine
from ..requests.answer import Answer
from ..requests.request import Request
from .scheduler import Scheduler
from .search.scheduler import SearchScheduler


def decode(engine: Engine, requests: Sequence[Request], slots: int) -> Iterator[list[Answer]]:
    """Decode until every request has ended, so many rows at once; the longest prompts go first.

    A search takes all rows of a request together.

    Yields:
        After each step, the answers that got a token, or of a search those that have ended.

    Raises:
        FormulaError: NaN, or a step in which every token is excluded.
        OutOfPages: a request would not fit if it were alone.
        StateError: another run has begun on the same engine.
    """
    kind = scheduler_of(engine)
    each = [kind.slots_of(engine, request) for request in requests]
    with engine.turn():
        batch = engine.begin(requests, max(min(slots, sum(each)), *each), True, each)
        scheduler, claim = kind(engine, batch), engine.claim
        for request, rows in zip(requests, each, strict=True):
            check_it_fits(batch, request, rows)
    scheduler.waiting.extend(sorted(requests, key=lambda request: -len(request.prompts[0])))
    while scheduler.busy:
        with engine.turn(claim):
            updated = scheduler.step()
        if updated:
            yield updated


def scheduler_of(engine: Engine) -> type[Scheduler]:
    """How requests of a plan go their way."""
    return SearchScheduler if engine.bound.plan.search else Scheduler
