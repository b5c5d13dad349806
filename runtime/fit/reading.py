"""Texts read once through the log-likelihood loop, which keeps the scores of each part instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...formula.scalar import Scalar
from ..engine.engine import Engine
from ..loops.loglikelihood import LoglikelihoodLoop
from ..requests.request import Request
from ..scores.context import Context
from ..scores.operators import evaluate, number_in
from .kept_scores import records_of

FLOATS = 2**21  # of one part's scores in a chunk
Part = tuple[Any, Scalar | None]  # a node of the plan, and a number of the state times it
Keep = Callable[[Tensor, Tensor], None]


class ScoreReading(LoglikelihoodLoop):
    """Reads texts and keeps each part's scores at every position.

    Args:
        engine: whose formula it is.
        parts: what is kept, side by side: nodes of its plan, with a number to multiply each by.
        keep: is given ``(n, width)`` float32, and ``(n, 3)`` int64: the token that comes there,
            whose it is, and how many tokens of the answer come before.
    """

    def __init__(self, engine: Engine, parts: Sequence[Part], keep: Keep) -> None:
        super().__init__(engine)
        self.most = max(1, min(self.most, FLOATS // self._width))
        self._parts, self._keep, self._features = parts, keep, torch.empty(0)

    def combined(self, context: Context) -> Tensor:
        scores = super().combined(context)
        each = []
        for node, number in self._parts:
            values = evaluate(node, context)
            if context.unreadable is not None and values.shape[1] > 1:
                hidden = context.padded(torch.where(context.unreadable, -torch.inf, 0.0))
                values = values + hidden
            each.append(values if number is None else values * number_in(number, context))
        self._features = torch.cat(each, dim=1).cpu()
        return scores

    def keep(
        self, texts: Sequence[Any], positions: Sequence[tuple[int, int]], scores: Tensor
    ) -> None:
        rows = []
        for row, (slot, at) in enumerate(positions):
            text = texts[slot]
            if at < len(text.read):
                rows += [(row, text.read[at], index, at) for index in text.indices]
            else:
                ends = zip(text.lasts, text.indices, strict=True)
                rows += [(row, token, index, at) for token, index in ends]
            text.done += 1
        picked, numbers = records_of(rows)
        is_all = len(picked) == len(positions)
        self._keep(self._features if is_all else self._features[picked], numbers)

    def results(self, text: Any) -> Iterator[tuple[int, Any]]:
        return ((index, len(text.read) + 1) for index in text.indices)


def read_texts(
    engine: Engine,
    requests: Sequence[Request],
    completions: Sequence[Sequence[int]],
    parts: Sequence[Part],
    keep: Keep,
    batch_size: int,
) -> Iterator[int]:
    """Read every completion once.

    Yields:
        After each forward, the tokens of the texts that have ended.

    Raises:
        FormulaError: NaN, or a position where every token is excluded.
    """
    pairs = list(zip(requests, completions, strict=True))
    for results in ScoreReading(engine, parts, keep).steps(pairs, batch_size):
        yield sum(tokens for _, tokens in results if isinstance(tokens, int))
