"""Scores: ``(slots, V)`` float32, with minus infinity for a token that is excluded.

Minus infinity stays what it is in everything that operators do to scores, but for one thing: a
product with a number that is not above 0. There it is ``parted`` from the rest.

Where a model of a formula has another vocabulary, scores have one column more, the last: the
probability of whatever the formula has no token for. It is never drawn, and stages never see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...models.heads.layer_heads import HeadColumns
from ...models.text.token_map import TokenMap

LOWEST = torch.finfo(torch.float32).min


class TokenColumns(NamedTuple):
    """Where a formula's tokens are among those of a lane that has another vocabulary.

    Attributes:
        of: ``(V,)`` int64, each token's id there; 0 for the ``absent``, ``(V,)`` bool.
        reads: ``(V,)`` int64, the first that is read for each token; 0 for the ``unreadable``.
        unused: ids there that no token has.
        ends: ids there that end a text, all of which count as the token ``end``; or none.
        share: ``(2,)`` float32: the probability that went to tokens, added up, and of how many
            distributions.
    """

    of: Tensor
    absent: Tensor
    reads: Tensor
    unreadable: Tensor
    unused: Tensor
    ends: Tensor
    end: Tensor
    share: Tensor

    def mapped(self, logits: Tensor) -> Tensor:
        """``(rows, own)`` logits to ``(rows, V + 1)``: the sum of all the others comes last."""
        mapped = logits.index_select(1, self.of).masked_fill_(self.absent, -torch.inf)
        if self.ends.numel():
            ends = logits.index_select(1, self.ends).logsumexp(dim=-1, keepdim=True)
            mapped.index_copy_(1, self.end, ends)
        beyond = logits.index_select(1, self.unused).logsumexp(dim=-1, keepdim=True)
        if self.unused.numel():
            lost = (beyond - logits.logsumexp(dim=-1, keepdim=True)).exp()
            self.share.add_(torch.stack(((1 - lost).sum(), torch.ones_like(lost).sum())))
        return torch.cat((mapped, beyond), dim=1)


def columns(tokens: TokenMap, device: torch.device) -> TokenColumns:
    """A token map on a device."""
    of = torch.tensor(tokens.other_ids)
    first = torch.tensor([ids[0] if ids else -1 for ids in tokens.reads])
    end = [tokens.formula_ids[tokens.ends[0]]] if tokens.ends else []
    ids = [torch.tensor(each, dtype=torch.long) for each in (tokens.unused, tokens.ends, end)]
    masks = of.clamp(min=0), of < 0, first.clamp(min=0), first < 0
    return TokenColumns(*(each.to(device) for each in (*masks, *ids, torch.zeros(2))))


class Logits:
    """A lane's logits in one step, and what its heads gave.

    Attributes:
        own: ``(rows, width)`` as the lane gave them, in any dtype; None where the scores' tokens
            are not its columns.
    """

    own: Tensor | None = None

    def __init__(
        self,
        outputs: Tensor,
        width: int,
        token_columns: TokenColumns | None = None,
        vocabulary: int | None = None,
    ) -> None:
        """Take what a lane gave.

        Args:
            outputs: ``(rows, own)`` logits, of any dtype; and from column ``vocabulary`` on, what
                heads gave.
            width: columns of scores.
            token_columns: where the logits are of another vocabulary, and are mapped.
        """
        self._outputs, self._width = outputs[:, :vocabulary], width
        if token_columns is None and self._outputs.shape[1] == width:
            self.own = self._outputs
        self._of_heads = outputs[:, self._outputs.shape[1] :]
        self._heads: dict[HeadColumns, Logits] = {}
        if token_columns is not None:
            self.raw = token_columns.mapped(self._outputs.float())
        elif (
            outputs.device.type == "cpu" and outputs.dtype == torch.float32 and self.own is not None
        ):
            self.raw = self.own  # a property costs a call of each model in each step
        if outputs.device.type == "cpu":
            self.broken = (self._outputs.amax(dim=-1).abs() < torch.inf).logical_not_()

    @cached_property
    def raw(self) -> Tensor:
        """``(rows, width)`` float32; a logit of minus infinity excludes its token."""
        logits, more = self._outputs.float(), self._width - self._outputs.shape[1]
        return pad(logits, (0, more), value=-torch.inf) if more > 0 else logits

    @cached_property
    def broken(self) -> Tensor:
        """``(rows,)`` bool, where a logit is NaN or infinite, or every one minus infinity."""
        return (self._outputs.amax(dim=-1).abs() < torch.inf).logical_not_()

    @classmethod
    def joined(cls, parts: Sequence[Logits]) -> Logits:
        """The rows of several, one after the other."""
        logits = cls.__new__(cls)
        logits._width, logits._heads = parts[0]._width, {}
        logits.raw = torch.cat([part.raw for part in parts])
        logits.broken = torch.cat([part.broken for part in parts])
        logits._of_heads = torch.cat([part._of_heads for part in parts])
        return logits

    def selected(self, rows: Tensor) -> Logits:
        """The logits of some rows, by their numbers."""
        logits = Logits.__new__(Logits)
        logits._width, logits._heads = self._width, {}
        logits.raw = self.raw.index_select(0, rows)
        logits.broken = self.broken.index_select(0, rows)
        logits._of_heads = self._of_heads.index_select(0, rows)
        return logits

    def keep(self) -> None:
        """Copy what a later forward would write over."""
        self.broken = self.broken  # worked out now
        self.raw, self._of_heads = self.raw.clone(), self._of_heads.clone()
        self._outputs, self.own = self.raw, None

    def head(self, columns: HeadColumns) -> Logits:
        """What a head gave: logits of its own; or one number, whose ``raw`` is ``(rows, 1)``."""
        if columns not in self._heads:
            outputs = self._of_heads[:, columns.start : columns.stop]
            width = self._width if outputs.shape[1] > 1 else 1
            self._heads[columns] = Logits(outputs, width)
        return self._heads[columns]

    @cached_property
    def logprobs(self) -> Tensor:
        """``(rows, V)`` log-probabilities."""
        return torch.log_softmax(self.raw, dim=-1)


def log_softmax(scores: Tensor) -> Tensor:
    """``(slots, V)`` log-probabilities; where every token is excluded, every token stays so."""
    shifted = scores - scores.amax(dim=-1, keepdim=True).clamp_(min=LOWEST)
    total = shifted.exp().sum(dim=-1, keepdim=True)  # at least 1, where any token is left
    return shifted.sub_(total.clamp_(min=1.0).log_())


def entropy(logprobs: Tensor) -> Tensor:
    """``(slots, V)`` log-probabilities to ``(slots, 1)`` nats."""
    return -(logprobs.exp() * logprobs.clamp(min=-1e9)).sum(dim=-1, keepdim=True)


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


def best(scores: Tensor) -> Tensor:
    """``(slots,)`` the best token of each row, the first of those that tie; by numpy on the CPU."""
    if scores.device.type != "cpu":
        return scores.argmax(dim=-1)
    tokens = torch.empty(scores.shape[0], dtype=torch.long)
    scores.numpy().argmax(axis=-1, out=tokens.numpy())
    return tokens
