"""Scores with their mask beside them, so that no minus infinity enters arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Scored(NamedTuple):
    """Scores of every token and which tokens are excluded.

    ``values`` is ``(slots, V)`` float32 and finite where it counts; ``excluded`` is ``(slots, V)``
    bool, or None where nothing is. ``beyond`` is ``(slots, 1)``, the log-probability of whatever is
    not in the vocabulary, for a model that has another; None is no probability.
    """

    values: Tensor
    excluded: Tensor | None
    beyond: Tensor | None = None

    def masked(self) -> Tensor:
        """``(slots, V)`` with minus infinity where a token is excluded."""
        if self.excluded is None:
            return self.values
        return self.values.masked_fill(self.excluded, -torch.inf)

    def without(self, tokens: Tensor) -> Scored:
        """The same scores with more tokens, ``(slots, V)`` bool, excluded."""
        excluded = tokens if self.excluded is None else self.excluded | tokens
        return Scored(self.values, excluded)

    def logprobs(self) -> Tensor:
        """``(slots, V)`` the distribution that these scores stand for, minus infinity included."""
        masked = self.masked()
        if self.beyond is None:
            return log_softmax(masked)
        total = torch.logaddexp(masked.logsumexp(dim=-1, keepdim=True), self.beyond)
        return (masked - total).masked_fill_(masked == -torch.inf, -torch.inf)


def log_softmax(masked: Tensor) -> Tensor:
    """``(slots, V)`` log-probabilities; where every token is excluded, every token stays so."""
    return torch.log_softmax(masked, dim=-1).masked_fill_(masked == -torch.inf, -torch.inf)


def entropy(logprobs: Tensor) -> Tensor:
    """``(slots, V)`` log-probabilities to ``(slots, 1)`` nats."""
    return -(logprobs.exp() * logprobs.clamp(min=-1e9)).sum(dim=-1, keepdim=True)


def from_masked(values: Tensor) -> Scored:
    """Scores whose excluded tokens are marked by minus infinity."""
    excluded = values == -torch.inf
    return Scored(values.masked_fill(excluded, 0.0), excluded)


class Columns(NamedTuple):
    """Where a formula's tokens are among those of a lane that has another vocabulary.

    ``of`` is ``(V,)`` int64, each token's id there; ``absent`` is ``(V,)`` bool, the tokens that
    have none, whose id is 0; ``used`` is ``(own,)`` bool, the ids that have a token.
    """

    of: Tensor
    absent: Tensor
    used: Tensor


def columns(theirs: Sequence[int], own: int, device: torch.device) -> Columns:
    """From each token's id there, -1 for none, and the size of that vocabulary."""
    of, used = torch.tensor(theirs), torch.zeros(own, dtype=torch.bool)
    used[of[of >= 0]] = True
    return Columns(of.clamp(min=0).to(device), (of < 0).to(device), used.to(device))


def read(logits: Tensor, there: Columns | None = None) -> tuple[Scored, Tensor]:
    """A lane's rows as log-probabilities, and which rows have NaN in them.

    Args:
        logits: ``(rows, own)``; a logit of minus infinity excludes its token.
        there: for a lane of another vocabulary, where the formula's tokens are in it.

    Returns:
        The scores, and ``(rows,)`` bool.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    broken = logprobs[:, 0].isnan()  # one NaN makes its whole row NaN, so that one column tells
    if there is None:
        return from_masked(logprobs), broken
    beyond = logprobs.masked_fill(there.used, -torch.inf).logsumexp(dim=-1, keepdim=True)
    found = logprobs.index_select(1, there.of).masked_fill_(there.absent, -torch.inf)
    return from_masked(found)._replace(beyond=beyond), broken
