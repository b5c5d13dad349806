"""Launching: the next step of several batches, together, and the copy of results to the host.

Where tokens are drafted, one chunked step verifies them: it gives what the formula draws after
each. A drafted token is kept if and only if the formula draws it, with the same noise. What it
draws after the last that is kept is kept too, so that every step gives one token at least.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from ...models.errors import OutOfPages
from ..batch.batch import Batch
from ..batch.changes import upload_changes
from ..batch.cost import RunStats
from ..batch.pages import extend
from ..batch.rewrite import replace_drafted
from ..batch.slot_state import DrawnTokens
from ..requests.answer import Answer
from ..scores.context import Context
from ..scores.undrawn import alarms
from .chunked_step import Chunk
from .cuda_graphs import StepGraphs
from .drafting import Draft, Proposal, drafted, proposed
from .logprob_rows import logprob_rows
from .pending import PendingStep
from .sampler import Drawn, draw, draw_together
from .step import Step

NONE, BROKEN = -1, -2  # in place of a drafted token: there is none, or scores were NaN
_log = logging.getLogger("descant")
Copied: TypeAlias = tuple[Tensor, torch.cuda.Event | None]  # None where it is there at once


@dataclass
class Verified:
    """What one round has drawn, on the device until somebody looks.

    Attributes:
        draft: that was verified, and ``chunk``, its positions.
        drawn: per position: tokens, alarms, and the drafted token after it; then log-probabilities,
            and, where a search needs it, whether the scores were unsure.
        steps: per slot, the tokens that it had drawn before.
        search_scores: ``(width, terms)`` float32 what each drawn token adds to the scores of its
            text in a search, or None.
        observed: rows of the results that hold what draft plans would have drawn; they come last.
    """

    draft: Draft
    chunk: Chunk
    drawn: Drawn
    steps: Sequence[int]
    search_scores: Tensor | None = None
    observed: int = 0

    def settle(self, batch: Batch, tokens: Sequence[Sequence[int]]) -> None:
        """Go on with these tokens, per slot: of those collected, the first that count."""
        replace_drafted(batch, self.draft.tokens, tokens)
        if self.search_scores is not None and batch.search_scores is not None:
            counts = torch.tensor([len(each) for each in tokens], device=batch.device)
            counted = self.chunk.ahead < counts[self.chunk.owner]
            scores = torch.where(counted[:, None], self.search_scores, 0.0)
            batch.search_scores.index_add_(0, self.chunk.owner, scores)

    def kept(
        self, tokens: Sequence[int], wrong: Sequence[int], following: Sequence[int]
    ) -> list[list[int]]:
        """Per slot, the rows of the results that count: up to the first that disagrees, or fails.

        Args:
            tokens, wrong, following: of the results, their first three rows.
        """
        if BROKEN in following:
            _warn_of_nan(self.draft.formula)
        rows, row = list[list[int]](), 0
        for count in self.chunk.counts:
            own = range(row, row + count)
            last = next((i for i in own if wrong[i] or tokens[i] != following[i]), own[-1])
            rows.append([*range(row, last + 1)])
            row += count
        return rows


class Stepping(Protocol):
    """An engine, as far as its steps go."""

    step: Step
    draft_steps: list[Step]
    graphs: StepGraphs
    stats: RunStats


class ScheduledBatch(NamedTuple):
    """Rows that are to take a step: a batch, and its answers where the engine keeps them.

    Attributes:
        proposal: tokens to verify in that step, if any.
    """

    engine: Stepping
    batch: Batch
    answers: Sequence[Answer] = ()
    proposal: Proposal | None = None


@torch.no_grad()
def launch(scheduled: Sequence[ScheduledBatch]) -> list[PendingStep]:
    """Launch a step of each, all of them together, and the copy of the results to the host.

    Those in which drafted tokens are verified come after the others.
    """
    steps, batches, read, recorded = [], [], [], False
    for engine, batch, _, proposal in scheduled:
        longest = 0
        if proposal is None:
            steps.append((engine.step, batch))
        else:
            batch.state.propose(proposal.counts)
            batch.stale, longest = True, max(proposal.counts)
        batches.append(batch)
        if batch.paged and (lacking := sum(extend(batch, longest).values())):
            problem = f"the next step takes {lacking} pages of the cache more than there are"
            raise OutOfPages(problem, "shorten the prompt, or ask for fewer tokens", topic="memory")
        read.append(engine.step.bytes_read)
        recorded |= engine.graphs.on
    upload_changes(batches)
    drawn: list[Drawn]
    if recorded:
        drawn = [each.engine.graphs.draw(each.batch) for each in scheduled if not each.proposal]
    else:  # plans that share lanes draw together
        drawn = draw_together(steps)
    rounds: dict[int, Verified] = {}
    if len(steps) < len(scheduled):
        for number, (engine, batch, _, proposal) in enumerate(scheduled):
            if proposal is not None:
                rounds[number] = _verified(engine, batch, proposal)
                drawn.insert(number, rounds[number].drawn)
    pending = []
    rows = zip(scheduled, read, drawn, to_host(drawn), strict=True)
    for number, ((engine, batch, answers, _), before, out, copied) in enumerate(rows):
        checked = rounds.get(number)
        if checked is None:
            for answer in answers:  # of a round, nobody knows yet
                answer.drawn += 1
            if batch.constrained:
                batch.state.note(DrawnTokens(*copied))
        engine.stats.add(0 if checked else batch.count, engine.step.bytes_read - before)
        if batch.drawn:
            engine.stats.components.update(batch.drawn)
        top = batch.top_logprobs
        kept = [*batch.requests], [*answers], (1 + 2 * top) * batch.logprobs, top
        pending.append(PendingStep(batch, out.sources, *kept, *copied, checked))
    return pending


def _verified(engine: Stepping, batch: Batch, proposal: Proposal) -> Verified:
    """Draft tokens and verify them."""
    _, steps = batch.state.noise()
    if proposal.tokens is not None:
        draft = proposed(batch, proposal.tokens)
    else:
        drafting = engine.draft_steps[proposal.plan]
        before = drafting.bytes_read
        draft = drafted(drafting, batch, proposal.counts)
        engine.stats.bytes_read += drafting.bytes_read - before
    others = engine.draft_steps if proposal.observes else ()
    return verified(engine.step, batch, draft, steps, others)


def verified(
    step: Step, batch: Batch, draft: Draft, steps: Sequence[int], others: Sequence[Step]
) -> Verified:
    """Draw a token at every position of a draft, by the formula.

    Args:
        step: of the formula.
        batch: its slots, and ``draft``, what was drafted in them.
        steps: per slot, the tokens drawn before.
        others: steps of draft plans of which it is to be seen what they draw.
    """
    counts = [count + 1 for count in draft.counts]
    chunk = Chunk(step, batch, counts, draft.tokens, draft.logits)
    context = chunk.context(noisy=True)
    masked = step.combined(context)
    [(tokens, scores)] = draw([chunk], [masked])
    rows = [tokens, alarms(context, scores), _drafted_next(chunk, draft)]
    if batch.logprobs:
        assert context.own is not None
        rows += logprob_rows(context.own, masked, chunk, tokens)
    rows += [*context.unsure, *(drawn_by(each, chunk, context) for each in others)]
    results = torch.stack(rows)
    search_scores = None
    if batch.search_scores is not None:
        search_scores = step.search_scores(context, tokens, chunk.owner)
    drawn = Drawn(list(context.broken), results, scores)
    return Verified(draft, chunk, drawn, steps, search_scores, len(others))


def drawn_by(step: Step, chunk: Chunk, context: Context) -> Tensor:
    """``(width,)`` int64, what a draft plan draws from the same logits."""
    own = chunk.of(step)
    its_context = own.context(noisy=True)
    its_context.logits = context.logits
    return draw([own], [step.combined(its_context)])[0].tokens


def _drafted_next(chunk: Chunk, draft: Draft) -> Tensor:
    """``(width,)`` int64, the drafted token that follows each position."""
    if draft.on_device is None:
        tokens = [[*tokens, NONE] for tokens in draft.tokens]
        following = torch.tensor([*chain(*tokens)], device=chunk.batch.device)
    else:
        last = torch.full_like(draft.on_device[:1], NONE)
        following = torch.cat((draft.on_device, last))[chunk.ahead, chunk.owner]
    if draft.broken is not None:
        never = torch.zeros_like(draft.broken[:1])
        broken = torch.cat((draft.broken, never))[chunk.ahead, chunk.owner]
        following = torch.where(broken, BROKEN, following)
    return torch.where(chunk.after > 0, following, NONE)


@lru_cache(maxsize=64)
def _warn_of_nan(formula: str) -> None:
    """Say so, once for each draft: its tokens are never drawn, and cost their time."""
    _log.warning("draft=%r gives NaN: none of its tokens is kept; check its weights", formula)


def to_host(drawn: Sequence[Drawn]) -> list[Copied]:
    """Begin one copy of all results to the host, per device; and what happens when it is there."""
    copies, on_devices = list[Copied](), dict[torch.device, list[int]]()
    for number, each in enumerate(drawn):
        copies.append((each.results, None))
        if each.results.is_cuda:
            on_devices.setdefault(each.results.device, []).append(number)
    for device, numbers in on_devices.items():
        flat = [drawn[number].results.reshape(-1) for number in numbers]
        packed = flat[0] if len(flat) == 1 else torch.cat(flat)
        host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
        host.copy_(packed, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(device))
        parts = torch.split(host, [len(each) for each in flat])
        for number, part in zip(numbers, parts, strict=True):
            copies[number] = part.view(drawn[number].results.shape), copied
    return copies
