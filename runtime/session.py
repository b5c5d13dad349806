"""A session: what decodes one formula, in one place for the decoder and for transformers' loops."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .binding.bound import Bound
from .engine.engine import Engine
from .progress import progress_bar
from .requests.answer import Answer
from .requests.build import RequestBuilder
from .requests.request import Completion, Request

_log = logging.getLogger("descant")
_HEARD = 0.8  # of an aligned model's probability; a warning where less goes to the formula's tokens


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

    def completed(
        self, requests: Sequence[Request], batch_size: int, progress: bool | None
    ) -> Iterator[tuple[int, Completion]]:
        """Each request's number and completion, as soon as it has ended."""
        with progress_bar(len(requests), "row", "decoding", progress) as bar:
            for answers in self.decode(requests, batch_size) if requests else ():
                for answer in answers:
                    if answer.finish_reason:
                        yield answer.request.index, answer.completion(time.perf_counter())
                        bar.update()
        self.warn()

    def pieces(self, request: Request) -> Iterator[Any]:
        """The text of one request as it comes; its tokens, where there is no tokenizer."""
        shown = 0
        for [answer] in self.decode([request], 1):
            if self.bound.tokenizer is None:
                yield from answer.tokens[shown:]
                shown = len(answer.tokens)
            elif piece := answer.take():
                yield piece
        self.warn()

    def warn(self) -> None:
        """Say which models of another vocabulary were hardly heard in the last run."""
        for name, share in self.engine.stats.mapped_shares().items():
            if share < _HEARD:
                _log.warning(
                    "align(%s): only %.0f%% of its probability went to tokens of the formula; "
                    "the rest is lost", name, 100 * share,
                )  # fmt: skip


class HasSession(Protocol):
    """A decoder, as transformers' loops see it."""

    session: Session

    def session_of(self, draft: str | None) -> Session:
        """What decodes with drafts of a source, if any."""
