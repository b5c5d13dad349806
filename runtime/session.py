"""A session: what decodes one formula, in one place for the decoder and for transformers' loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .binding.bound import Bound
from .engine.engine import Engine
from .requests.answer import Answer
from .requests.build import RequestBuilder
from .requests.request import Request


@dataclass(frozen=True)
class Session:
    """A plan with its lanes, the engine that steps it, and what turns arguments into requests.

    Attributes:
        decode: decodes requests to their end, so many rows at once (``loops.decode``).
    """

    bound: Bound
    engine: Engine
    builder: RequestBuilder
    decode: Callable[[Sequence[Request], int], Iterator[list[Answer]]]


class HasSession(Protocol):
    """A decoder, as transformers' loops see it."""

    session: Session

    def session_of(self, draft: str | None) -> Session:
        """What decodes with drafts of a source, if any."""
