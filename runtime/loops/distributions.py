"""The formula's distributions along given completions: what a student of it learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..requests.completions import check_completion
from ..requests.request import Request
from ..scores.logprobs import log_softmax
from .loglikelihood import LoglikelihoodLoop


def distributions(
    engine: Engine, requests: Sequence[Request], completions: Sequence[Sequence[int]]
) -> list[Tensor]:
    """What the formula would draw each token of completions from; all texts are read at once.

    Args:
        engine: whose formula it is, which does not search.
        requests: the prompts, and ``completions``, token ids of each, at least one.

    Returns:
        ``(len(ids), V)`` float32 log-probabilities per completion, minus infinity for what the
        formula excludes: row i is before token i.

    Raises:
        FormulaError: NaN, or a position where every token is excluded.
        ArgumentError: as ``check_completion``.
    """
    pairs = list(zip(requests, completions, strict=True))
    for request, ids in pairs:
        check_completion(engine.bound, request, ids, read=len(ids) - 1)
    found = dict(_Distributions(engine).run(pairs, len(pairs)))
    return [found[index] for index in range(len(pairs))]


class _Distributions(LoglikelihoodLoop):
    """Keeps whole distributions, in place of how likely each token is."""

    def keep(self, texts: Sequence[Any], positions: Sequence[Any], scores: Tensor) -> None:
        for (slot, _), row in zip(positions, log_softmax(scores), strict=True):
            texts[slot].scores.append(row)
            texts[slot].done += 1

    def results(self, text: Any) -> Iterator[tuple[int, Any]]:
        rows = torch.stack(text.scores)
        return ((index, rows) for index in text.indices)
