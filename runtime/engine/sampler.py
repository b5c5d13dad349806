"""The sampler: the best token of each row, with noise where the row samples.

Rows of one vocabulary are sampled together, whichever plans they belong to: noise costs many small
operations, whatever the number of rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from ..scores.logprobs import best
from ..scores.noise import gumbel

Source: TypeAlias = tuple[str, object]  # what can give NaN: a term, a search's term, a stage


class SampledRows(Protocol):
    """What the sampler reads of a batch."""

    samples: bool
    keys: Tensor
    steps: Tensor
    temperatures: Tensor

    @property
    def width(self) -> int:
        """How many rows, with idle ones."""


class Draw(NamedTuple):
    """What was drawn for the rows of one batch.

    Attributes:
        tokens: ``(slots,)`` int64.
        scores: ``(slots,)`` float32, their scores without noise: NaN where any score is, and minus
            infinity where every token is excluded.
    """

    tokens: Tensor
    scores: Tensor


class Drawn(NamedTuple):
    """What one step has drawn for the slots of a batch.

    Attributes:
        sources: what an alarm means (``Context.broken``).
        results: ``(3 or more, slots)`` int64, what the host needs to know: the tokens, the alarms,
            how many each slot has drawn now; with logprobs, those of ``logprob_rows``; and, where a
            search needs it, whether the scores were unsure.
        scores: ``(slots,)`` float32 of the tokens, without noise.
    """

    sources: list[Source]
    results: Tensor
    scores: Tensor


def draw(batches: Sequence[SampledRows], scores: Sequence[Tensor]) -> list[Draw]:
    """A token for every slot of every batch, from its ``(slots, V)`` scores."""
    if len(batches) == 1:
        return [_drawn(batches, scores[0])]
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for number, each in enumerate(scores):
        alike[each.shape[1], each.device].append(number)
    drawn: dict[int, Draw] = {}
    for numbers in alike.values():
        joined = [batches[number] for number in numbers]
        rows = _drawn(joined, torch.cat([scores[number] for number in numbers]))
        parts = (torch.split(each, [batch.width for batch in joined]) for each in rows)
        drawn |= dict(zip(numbers, map(Draw, *parts), strict=True))
    return [drawn[number] for number in range(len(batches))]


def _drawn(batches: Sequence[SampledRows], scores: Tensor) -> Draw:
    noisy = scores
    if [batch for batch in batches if batch.samples]:
        keys = torch.cat([batch.keys[: batch.width] for batch in batches])
        steps = torch.cat([batch.steps[: batch.width] for batch in batches])
        warm = torch.cat([batch.temperatures[: batch.width] for batch in batches])[:, None]
        noise = gumbel(keys, steps, scores.shape[-1])
        noisy = torch.where(warm > 0, scores / warm + noise, scores)
    tokens = best(noisy)
    return Draw(tokens, scores.gather(1, tokens[:, None])[:, 0])
