"""A session: what decodes one formula, in one place for the decoder and for transformers' loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .binding.bound import Bound
from .engine.engine import Engine
from .requests.build import RequestBuilder


@dataclass(frozen=True)
class Session:
    """A plan with its lanes, the engine that steps it, and what turns arguments into requests."""

    bound: Bound
    engine: Engine
    builder: RequestBuilder


class HasSession(Protocol):
    """A decoder, as transformers' loops see it."""

    @property
    def session(self) -> Session:
        """What it decodes with."""
