"""Warming up: the steps of a formula are recorded before its first requests come."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from ..errors import DescantError
from ..models.recordings import buckets
from .explain.plan_report import Report
from .requests.answer import Answer
from .requests.request import Request

STEPS = 4  # eager, recorded, replayed
_log = logging.getLogger("descant")


class Formula(Protocol):
    """A formula that is served."""

    @property
    def plan(self) -> Report:
        """Its plan, with its text."""

    def requests(self, prompt: Any, **arguments: Any) -> list[Request]:
        """The requests of one prompt."""

    def slots_of(self, request: Request) -> int:
        """Slots that a request takes."""


Served = TypeVar("Served", bound=Formula, contravariant=True)


class Serving(Protocol, Generic[Served]):
    """A service, as ``Service`` describes it."""

    slots: int
    failures: list[Exception]

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""

    def submit(self, decoder: Served, prompt: Any, **arguments: Any) -> list[Request]:
        """Queue one prompt."""

    def step(self) -> Sequence[Answer]:
        """Draw a token for every slot."""


def record_steps(service: Serving[Served], decoder: Served) -> None:
    """Decode rows of a formula, for every bucket of them, greedily and by noise."""
    formula, found = decoder.plan.formula, _readable(decoder)
    if found is None:
        _log.info("%s is recorded with its first requests", formula)
        return
    prompt, request = found
    error: Exception | None = None
    for rows in reversed(buckets(service.slots // decoder.slots_of(request))):
        for temperature in (0.0, 1.0):
            error = error or _record(service, decoder, prompt, rows, temperature)
    if error is not None:
        _log.warning("%s is recorded with its first requests: %s", formula, error)


def _record(
    service: Serving[Served], decoder: Served, prompt: Any, rows: int, temperature: float
) -> Exception | None:
    """Decode so many rows, for as many steps as it takes to record them; what went wrong."""
    service.submit(
        decoder, prompt, num_return_sequences=rows, temperature=temperature, seed=0,
        max_new_tokens=STEPS, eos_token_id=[],
    )  # fmt: skip
    errors: list[Exception] = []
    while service.busy:
        updated = service.step()
        errors += [answer.error for answer in updated if answer.error is not None]
        errors += service.failures
    return errors[0] if errors else None


def _readable(decoder: Formula) -> tuple[Any, Request] | None:
    """A short prompt that every model of a formula reads, and its request."""
    for prompt in ([0], [{"role": "user", "content": "a"}], "a"):
        try:
            [request] = decoder.requests(prompt, max_new_tokens=STEPS)
        except DescantError:
            continue
        return prompt, request
    return None
