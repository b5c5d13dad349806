"""Scores: ``(slots, V)`` float32, with minus infinity for a token that is excluded.

Minus infinity stays what it is in everything that operators do to scores, but for one thing: a
product with a number that is not above 0. There it is ``parted`` from the rest.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

LOWEST = torch.finfo(torch.float32).min


class Logits:
    """What a lane says in one step.

    Attributes:
        raw: ``(rows, V)``; a logit of minus infinity excludes its token.
        broken: ``(rows,)`` bool, where a logit is NaN or infinite, or every one minus infinity.
    """

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw
        self.broken = raw.amax(dim=-1).isfinite().logical_not_()

    @cached_property
    def logprobs(self) -> Tensor:
        """``(rows, V)`` log-probabilities."""
        return torch.log_softmax(self.raw, dim=-1)


def log_softmax(scores: Tensor) -> Tensor:
    """``(slots, V)`` log-probabilities; where every token is excluded, every token stays so."""
    shifted = scores - scores.amax(dim=-1, keepdim=True).clamp_(min=LOWEST)
    total = shifted.exp().sum(dim=-1, keepdim=True)  # at least 1, where any token is left
    return shifted.sub_(total.clamp_(min=1.0).log_())


def from_up(scores: Tensor, least: Tensor) -> Tensor:
    """The scores that are at least so high, ``(slots, 1 or V)``, and the other tokens excluded.

    By arithmetic: a CPU takes longer over a choice that is hard to foresee.
    """
    low = torch.lt(scores, least, out=torch.empty_like(scores))
    return torch.sub(scores, low.mul_(-LOWEST), alpha=2, out=low)  # less nothing, or infinity


def parted(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The same with 0 for excluded tokens; and minus infinity for those, 0 for the others."""
    finite = scores.nan_to_num(nan=torch.nan, posinf=torch.inf, neginf=0.0)
    return finite, scores - finite


def ascending(scores: Tensor) -> Tensor:
    """``(slots, V)`` each row sorted; on the CPU by numpy, which is many times faster there."""
    if scores.device.type != "cpu":
        return scores.sort(dim=-1).values
    copied = scores.clone(memory_format=torch.contiguous_format)
    copied.numpy().sort(axis=-1)
    return copied
