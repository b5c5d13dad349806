"""Draws: the best token of each row, with noise where the row samples.

Rows that have one vocabulary are looked at together, whichever plans they belong to: noise costs
many small operations, whatever the number of rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..batch.batch import Batch
from ..scores.logprobs import best
from ..scores.noise import gumbel


class Draw(NamedTuple):
    """What was drawn for the rows of one batch.

    Attributes:
        tokens: ``(slots,)`` int64.
        scores: ``(slots,)`` float32, their scores without noise: NaN where any score is, and minus
            infinity where every token is excluded.
    """

    tokens: Tensor
    scores: Tensor


def draw(batches: Sequence[Batch], scores: Sequence[Tensor]) -> list[Draw]:
    """A token for every slot of every batch, from its ``(slots, V)`` scores."""
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for number, one in enumerate(scores):
        alike[one.shape[1], one.device].append(number)
    found: dict[int, Draw] = {}
    for numbers in alike.values():
        some = [batches[number] for number in numbers]
        both = _drawn(some, _joined([scores[number] for number in numbers]))
        counts = [batch.count for batch in some]
        parts = zip(*(torch.split(one, counts) for one in both), strict=True)
        found |= {number: Draw(*part) for number, part in zip(numbers, parts, strict=True)}
    return [found[number] for number in range(len(batches))]


def _drawn(batches: Sequence[Batch], scores: Tensor) -> Draw:
    noisy = scores
    if any(batch.samples for batch in batches):
        keys, steps, temperatures = (
            _joined([one[: batch.count] for batch, one in zip(batches, some, strict=True)])
            for some in zip(*((b.keys, b.steps, b.temperatures) for b in batches), strict=True)
        )
        warm = temperatures[:, None]
        noise = gumbel(keys, steps, scores.shape[-1])
        noisy = torch.where(warm > 0, scores / warm + noise, scores)
    tokens = best(noisy)
    return Draw(tokens, scores.gather(1, tokens[:, None])[:, 0])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))
