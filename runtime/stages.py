"""What each stage of the language does to scores: tensors in, tensors out, a row per slot.

A stage is made once per decoder from its place in the plan; all that varies between steps is in
the context that it is applied to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from ..formula.stages import (
    MinP,
    RepetitionPenalty,
    Rerank,
    Stage,
    Temperature,
    TopK,
    TopP,
)
from .scored import Scored


class Rewarder(Protocol):
    """The rewards of candidates, and going on with one of them."""

    def rewards(self, candidates: Tensor) -> list[Tensor]:
        """``(slots, k)`` ids to one ``(slots, k)`` tensor per reward model of the stage."""

    def keep(self, choice: Tensor) -> None:
        """``(slots,)`` which candidate each slot goes on with."""


@dataclass
class Context:
    """What a stage may look at besides the scores.

    Attributes:
        values: ``(slots, scalars)`` float32, the plan's numbers for each row.
        most: for the plan's whole numbers, the largest over the rows; known on the host.
        seen: ``(slots, V)`` bool, tokens read so far; where a stage of the plan needs them.
        rewarders: per stage that reranks, where any row has a weight on it.
        forced: ``(slots,)`` the tokens that come next whatever the scores, when scoring a text.
        asked: per stage that reranks, the ``(slots, k)`` candidates of this step.
        broken: ``(slots,)`` bool tensors, one per source that can give NaN, filled as they come.
    """

    values: Tensor
    most: dict[int, int]
    seen: Tensor | None = None
    rewarders: dict[int, Rewarder] = field(default_factory=dict)
    forced: Tensor | None = None
    asked: dict[int, Tensor] = field(default_factory=dict)
    broken: dict[str, Tensor] = field(default_factory=dict)


Commit: TypeAlias = Callable[[Tensor, Context], None]
Apply: TypeAlias = Callable[[Scored, Context], Scored]


@dataclass(frozen=True)
class Step:
    """A stage at work: ``apply`` to the scores, then ``commit`` to the token that was chosen."""

    apply: Apply
    commit: Commit | None = None


@singledispatch
def make(stage: Stage, number: int) -> Step:
    """The step of a stage, which is the ``number``-th of its plan."""
    raise TypeError(f"no step for the stage {stage}")


@make.register
def _(stage: TopK, number: int) -> Step:
    def apply(scored: Scored, context: Context) -> Scored:
        k = context.values[:, stage.k, None].long()
        width = min(context.most[stage.k], scored.values.shape[-1])
        best = scored.masked()
        lowest = best.topk(width, dim=-1).values.gather(1, k.clamp(max=width) - 1)
        return scored.without(best < lowest)

    return Step(apply)


@make.register
def _(stage: TopP, number: int) -> Step:
    def apply(scored: Scored, context: Context) -> Scored:
        p = context.values[:, stage.p, None]
        order = scored.masked().sort(dim=-1, descending=False)
        low = order.values.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
        low[:, -1] = False
        out = low.scatter(1, order.indices, low)
        return scored.without(out)

    return Step(apply)


@make.register
def _(stage: MinP, number: int) -> Step:
    def apply(scored: Scored, context: Context) -> Scored:
        p = context.values[:, stage.p, None]
        masked = scored.masked()
        out = masked < masked.amax(dim=-1, keepdim=True) + p.log()
        return scored.without(out)

    return Step(apply)


@make.register
def _(stage: Temperature, number: int) -> Step:
    def apply(scored: Scored, context: Context) -> Scored:
        return Scored(scored.values / context.values[:, stage.t, None], scored.excluded)

    return Step(apply)


@make.register
def _(stage: RepetitionPenalty, number: int) -> Step:
    def apply(scored: Scored, context: Context) -> Scored:
        assert context.seen is not None
        x, values = context.values[:, stage.x, None], scored.values
        penalised = torch.where(values < 0, values * x, values / x)
        return Scored(torch.where(context.seen, penalised, values), scored.excluded)

    return Step(apply)


@make.register
def _(stage: Rerank, number: int) -> Step:
    """ARGS, Algorithm 1: ``score(v) = LM(v | x) + w * r([x, v])`` over the top k."""

    def apply(scored: Scored, context: Context) -> Scored:
        k = context.values[:, stage.k, None]
        width = min(context.most[stage.k], scored.values.shape[-1])
        best = scored.masked().topk(width, dim=-1)
        kept = (torch.arange(width, device=k.device) < k) & (best.values > -torch.inf)
        values = best.values.masked_fill(~kept, 0.0)
        rewarder = context.rewarders.get(number)
        if rewarder is not None:
            asked = best.indices
            if context.forced is not None:
                asked = torch.cat((asked, context.forced[:, None]), dim=1)
            context.asked[number] = asked
            reward = _combined(stage, rewarder.rewards(asked), context)[:, :width]
            weight = context.values[:, stage.w, None]
            context.broken[f"stage {number}"] = (reward.isnan() & kept & (weight != 0)).any(-1)
            values = values + torch.where(weight != 0, weight * reward, 0.0)
        out = torch.ones_like(scored.values, dtype=torch.bool).scatter_(1, best.indices, ~kept)
        return Scored(torch.zeros_like(scored.values).scatter_(1, best.indices, values), out)

    def commit(tokens: Tensor, context: Context) -> None:
        rewarder = context.rewarders.get(number)
        if rewarder is not None:
            chosen = context.asked[number] == tokens[:, None]
            rewarder.keep(chosen.byte().argmax(dim=-1))

    return Step(apply, commit)


def _combined(stage: Rerank, rewards: list[Tensor], context: Context) -> Tensor:
    """The reward expression, ``(slots, k)``."""
    total = torch.zeros_like(rewards[0])
    for (index, _), reward in zip(stage.reward.parts, rewards, strict=True):
        weight = context.values[:, index, None]
        total = total + torch.where(weight != 0, weight * reward, 0.0)
    if stage.reward.shift is not None:
        total = total + context.values[:, stage.reward.shift, None]
    return total
