"""Drafting: a cheaper plan takes steps of its own, and proposes what it draws.

Its tokens are drawn with the noise of the rows, as the formula's are, so that they often agree. All
lanes are fed with them; those that ran keep their logits for the verification. Nothing waits for
the host, where it need not know the tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...models.cache.row_items import Growing
from ...models.upload import Mirror
from ..batch.batch import Batch
from ..batch.rewrite import append, read_on, save
from ..batch.texts import thoughts_of
from ..binding.bound import Bound
from ..scores.context import Context
from ..scores.logprobs import Logits
from ..scores.token_tables import add_drawn
from .sampler import draw


class DraftStep(Protocol):
    """The step of a draft plan."""

    bound: Bound

    def context(self, batch: Batch) -> Context:
        """What the step knows before a lane has run."""

    def scores(self, batch: Batch, context: Context) -> Tensor:
        """``(slots, V)``."""


class Proposal(NamedTuple):
    """Tokens to draft in the slots of a batch, before one step verifies them.

    Attributes:
        counts: per slot, how many.
        tokens: the same, where the host knows them.
        plan: of the engine's draft plans, the one that draws them.
        observes: whether to tell what each draft plan would have drawn at the first position.
    """

    counts: Sequence[int]
    tokens: Sequence[Sequence[int]] | None = None
    plan: int = 0
    observes: bool = False


@dataclass
class Draft:
    """Tokens that are proposed for the slots of a batch; the lanes' texts have them.

    Attributes:
        counts: per slot, how many.
        tokens: the same, as far as the host knows them; else 0 for each.
        on_device: ``(most, slots)`` int64, where they were drawn; None where the host knows them.
        logits: per lane that ran for each of them, what it gave before each.
        formula: that drew them, and ``broken``, ``(most, slots)`` bool, where its scores were NaN.
    """

    counts: Sequence[int]
    tokens: Sequence[Sequence[int]]
    on_device: Tensor | None = None
    logits: Mapping[int, Sequence[Logits]] = field(default_factory=dict)
    formula: str = ""
    broken: Tensor | None = None

    def on_host(self) -> Draft:
        """The same, where the host knows the tokens."""
        if self.on_device is None:
            return self
        columns = zip(*self.on_device.tolist(), strict=True)
        ids = [list(each[:count]) for each, count in zip(columns, self.counts, strict=False)]
        return replace(self, tokens=ids, on_device=None)


def proposed(batch: Batch, tokens: Sequence[Sequence[int]]) -> Draft:
    """A draft of tokens that the host knows."""
    save(batch)
    append(batch, tokens)
    return Draft([len(each) for each in tokens], tokens)


def drafted(step: DraftStep, batch: Batch, counts: Sequence[int]) -> Draft:
    """Draw so many tokens per slot by the step of a draft plan.

    The batch has been told of the counts (``SlotState.propose``), and its device too.
    """
    save(batch)
    most, logits = max(counts), dict[int, list[Logits]]()
    drawn_tokens, broken = list[Tensor](), list[Tensor]()
    tables = {
        table: rows[: batch.width].clone() if table.grows else rows[: batch.width]
        for table, rows in batch.tables.items()
    }
    thoughts = thoughts_of(batch)
    steps = batch.steps[: batch.width]
    known = _is_known(batch)
    for number in range(most):
        context = step.context(batch)
        context.tables, context.thoughts = tables, thoughts
        scores = step.scores(batch, context)
        [(tokens, best)] = draw([batch], [scores])
        for lane, each in context.logits.items():
            if batch.bound.lanes[lane].rows.bucketed:  # the next forward writes there again
                each.keep()
            logits.setdefault(lane, []).append(each)
        drawn_tokens.append(tokens)
        broken.append(best.isnan())
        growing = {slot for slot, count in enumerate(counts) if count > number}
        _feed(batch, tokens, growing, number)
        if batch.token_columns:
            read_on(batch, tokens.tolist(), growing)
        add_drawn(tables, tokens)
        if thoughts is not None:
            thoughts = thoughts.after(tokens)
        steps.add_(1)
    steps.sub_(most)
    own = {lane: each for lane, each in logits.items() if len(each) == most}
    unknown, on_device = [[0] * count for count in counts], torch.stack(drawn_tokens)
    formula = step.bound.plan.formula
    draft = Draft(counts, unknown, on_device, own, formula, torch.stack(broken))
    return draft.on_host() if known else draft


def _is_known(batch: Batch) -> bool:
    """Whether the host has to know drafted tokens, or does so without waiting."""
    on_host = Mirror.on_host(batch.device)
    tracked = any(table.grows for table in batch.tables) or batch.thoughts is not None
    return on_host or tracked or bool(batch.token_columns)


def _feed(batch: Batch, tokens: Tensor, growing: Collection[int], number: int) -> None:
    """Add a drafted token to the texts of all lanes, in these slots."""
    every = len(growing) == batch.width
    mask = None if every else batch.state.mirror.device.proposed[: batch.width] > number
    for lane_number, lane in enumerate(batch.bound.lanes):
        owners = batch.owners[lane_number]
        if not owners.numel():
            continue
        fed, columns = tokens[owners], batch.token_columns.get(lane_number)
        fed = fed if columns is None else columns.reads[fed]
        if mask is None:
            lane.feed(fed)
        else:
            owned = enumerate(batch.owned[lane_number])
            rows = [row for row, (_, slot) in owned if slot in growing]
            lane.feed(fed, Growing(rows, mask[owners]))
