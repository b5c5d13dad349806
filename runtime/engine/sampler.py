"""The sampler: the best token of each row, with noise where the row samples.

Rows of one vocabulary are sampled together, whichever plans they belong to: noise costs many small
operations, whatever the number of rows. On CUDA it is a kernel of ours, once that has given what
torch's operations give.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from ...models.kernels.draw import draw as draw_by_kernel
from ...models.kernels.first_use import FirstUse
from ...models.kernels.gpu import why_disabled, why_no_triton
from ...models.kernels.noise import noisy
from ..scores.logprobs import best

TOLERANCE = 1e-4  # of scores with noise, which are rounded by their logarithms
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
    if not any(batch.samples for batch in batches):
        return _best(scores, scores)
    rows = [
        (batch.temperatures[: batch.width], batch.keys[: batch.width], batch.steps[: batch.width])
        for batch in batches
    ]
    settings = rows[0] if len(rows) == 1 else tuple(map(torch.cat, zip(*rows, strict=True)))
    plain = partial(_plain, scores, *settings)
    if not scores.is_cuda:
        return plain()
    kernel, wrong = partial(_by_kernel, scores, *settings), partial(_wrong, scores, settings)
    return _KERNEL.run(scores.device, kernel, plain, wrong)


def _best(scores: Tensor, noisy_scores: Tensor) -> Draw:
    tokens = best(noisy_scores)
    return Draw(tokens, scores.gather(1, tokens[:, None])[:, 0])


def _plain(scores: Tensor, *settings: Tensor) -> Draw:
    return _best(scores, noisy(scores, *settings))


def _by_kernel(scores: Tensor, *settings: Tensor) -> Draw:
    return Draw(*draw_by_kernel(scores, *settings))


def _wrong(scores: Tensor, settings: Sequence[Tensor], found: Draw, expected: Draw) -> str | None:
    """What is wrong with the kernel's draw, or None; a token may be another that is as good."""
    tokens = found.tokens.clamp(0, scores.shape[1] - 1)
    pairs = torch.stack((tokens, expected.tokens), dim=1)
    own, top = noisy(scores, *settings).gather(1, pairs).unbind(dim=1)
    good = (tokens == expected.tokens) | ((top - own).abs() <= TOLERANCE * (1 + top.abs()))
    score = scores.gather(1, tokens[:, None])[:, 0]
    good &= (found.scores == score) | (found.scores.isnan() & score.isnan())
    good &= found.tokens == tokens
    rows = int(good.logical_not().sum())
    return f"its kernel draws otherwise in {rows} of {len(good)} rows" if rows else None


def _why_not(device: torch.device) -> str | None:
    if why := why_disabled("draw"):
        return why
    return why_no_triton(torch.cuda.get_device_capability(device))


_KERNEL: FirstUse[Draw] = FirstUse("sampling", _why_not)
