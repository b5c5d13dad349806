"""The sampler: the best token of each row, with noise where the row samples.

Rows of one vocabulary are sampled together, whichever plans they belong to: noise costs many small
operations, whatever the number of rows. On CUDA there are kernels of ours, once they have given
what torch's operations give: for rows of scores; and for a sum of terms with its last stages, and
what the host is told of it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Generator, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from ...formula.words.stages import Stage, Temperature
from ...models.kernels.draw import draw as draw_by_kernel
from ...models.kernels.drawing.draw_sum import draw_sum, keeps_best
from ...models.kernels.first_use import FirstUse
from ...models.kernels.gpu import why_disabled, why_no_triton
from ...models.kernels.noise import noisy
from ..scores.context import Context
from ..scores.logprobs import best
from ..scores.stages import chain
from ..scores.undrawn import Undrawn, alarms

KERNELS_ON = {"cuda"}  # types of devices that have kernels for sums and stages
TOLERANCE = 1e-4  # of scores with noise, which are rounded by their logarithms
Scoring: TypeAlias = Generator[None, None, Tensor]  # stops once it has asked for rewards
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


class SlotRows(SampledRows, Protocol):
    """The same of a batch whose first rows, so many, are not idle."""

    count: int


class Drawable(Protocol):
    """A step, as far as drawing goes."""

    def context(self, batch: Any) -> Context: ...
    def forward(self, batch: Any) -> None: ...
    def undrawn(self, batch: Any, context: Context) -> Undrawn | None: ...
    def scoring(self, batch: Any, context: Context) -> Scoring: ...
    def combined(self, context: Context, last: int = 0) -> Tensor: ...
    def commit(self, batch: Any, context: Context, tokens: Tensor) -> None: ...
    def drawn(self, batch: Any, context: Context, masked: Tensor, drawn: Any) -> Any: ...


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


def finished(parts: Sequence[Scoring]) -> list[Tensor]:
    """What each gives in the end: none goes on before all have asked for the rewards they need."""
    results: dict[int, Tensor] = {}
    while len(results) < len(parts):
        for number, part in enumerate(parts):
            if number not in results:
                try:
                    next(part)
                except StopIteration as end:
                    results[number] = end.value
    return [*map(results.__getitem__, range(len(parts)))]


def draw_together(parts: Sequence[tuple[Drawable, Any]], forwarded: bool = False) -> list[Drawn]:
    """A token for every slot of several plans, each handed to its stages and lanes.

    All scores are computed before any token is drawn, so that a lane which plans share runs once
    for all of their rows.
    """
    contexts, sums, scoring = [], dict[int, Undrawn](), dict[int, Scoring]()
    batches: list[Any] = []  # of those whose scores are worked out
    for step, batch in parts:
        contexts.append(step.context(batch))
        if not forwarded:
            step.forward(batch)
    for number, ((step, batch), context) in enumerate(zip(parts, contexts, strict=True)):
        undrawn = step.undrawn(batch, context) if batch.device.type in KERNELS_ON else None
        if undrawn is not None:
            sums[number] = undrawn
        else:
            scoring[number] = step.scoring(batch, context)
            batches.append(batch)
    scores = dict(zip(scoring, finished([*scoring.values()]), strict=True))
    own = dict(zip(scores, draw(batches, [*scores.values()]), strict=True))
    by_sum, results = dict[int, Drawn](), []
    for number, each in sums.items():
        by_sum[number] = _drawn_sum(each, *parts[number], contexts[number])
    for number, ((step, batch), context) in enumerate(zip(parts, contexts, strict=True)):
        if number in by_sum:
            results.append(by_sum[number])
            step.commit(batch, context, by_sum[number].results[0])
        else:
            results.append(step.drawn(batch, context, scores[number], own[number]))
    return results


def _drawn_sum(undrawn: Undrawn, step: Drawable, batch: SlotRows, context: Context) -> Drawn:
    """What a step has drawn, by the kernels for sums and stages."""
    width, kinds, numbers = batch.width, undrawn.kinds, undrawn.numbers(context)
    settings = batch.temperatures[:width], batch.keys[:width], context.steps
    sources = undrawn.sources

    def by_kernel() -> Drawn:
        terms = undrawn.logits, undrawn.rows, undrawn.weights, undrawn.presents
        more = undrawn.shifts, undrawn.wrongs, undrawn.finished
        return Drawn(sources, *draw_sum(*terms, *more, kinds, numbers, *settings))

    def scores_after(stages: Sequence[Stage]) -> Tensor:
        sums = bool(undrawn.weights)
        head = step.combined(context, last=sys.maxsize) if sums else undrawn.logits[0]
        return chain(head, context, None, stages)

    def plain() -> Drawn:
        tokens, scores = _plain(scores_after(undrawn.stages), *settings)
        alarmed = alarms(context, scores)
        return Drawn(sources, torch.stack([tokens, alarmed, context.steps + 1]), scores)

    def wrong(found: Drawn, expected: Drawn) -> str | None:
        free = scores_after([each for each in undrawn.stages if isinstance(each, Temperature)])
        used = slice(batch.count)  # idle rows may have anything
        own, masked = [each[used] for each in settings], scores_after(undrawn.stages)[used]
        drawn = (
            Drawn(sources, each.results[:, used], each.scores[used]) for each in (found, expected)
        )
        return _wrong_sum(masked, free[used], own, *drawn)

    kernel = _STAGES if keeps_best(kinds) else _SUMS
    return kernel.run(context.steps.device, by_kernel, plain, wrong)


def _wrong_sum(
    masked: Tensor, free: Tensor, settings: Sequence[Tensor], found: Drawn, expected: Drawn
) -> str | None:
    """What is wrong with a draw, or None; a token may be another that is as good.

    Sums in another order are rounded otherwise: so a token may be kept or excluded that is the last
    to be kept, or the next.

    Args:
        masked: ``(slots, V)`` scores after all stages, and ``free``, after those that exclude none.
        settings: temperatures, keys and steps.
        found, expected: by the kernels, and by torch's operations.
    """
    tokens = torch.stack((found.results[0], expected.results[0]), dim=1)
    tokens = tokens.clamp(0, masked.shape[1] - 1)
    lowest = torch.where(masked == -torch.inf, torch.inf, masked).amin(dim=-1)
    scores, last = free.gather(1, tokens), (1 + lowest.abs())[:, None] * TOLERANCE
    on_edge, on_edge_too = ((scores - lowest[:, None]).abs() <= last).unbind(dim=1)
    stays = masked.gather(1, tokens[:, :1])[:, 0] != -torch.inf
    own, top = noisy(free, *settings).gather(1, tokens).unbind(dim=1)
    good = ((top - own).abs() <= TOLERANCE * (1 + top.abs())) | on_edge | (on_edge_too & stays)
    good |= tokens[:, 0] == tokens[:, 1]
    close = torch.isclose(found.scores, scores[:, 0], rtol=TOLERANCE, atol=TOLERANCE)
    good &= close | ~expected.scores.isfinite()
    good &= (found.results[1:] == expected.results[1:]).all(dim=0)
    rows = int(good.logical_not().sum())
    return f"its kernel draws otherwise in {rows} of {len(good)} rows" if rows else None


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
_SUMS: FirstUse[Drawn] = FirstUse("drawing from a sum", _why_not)
_STAGES: FirstUse[Drawn] = FirstUse("drawing after stages", _why_not)
