"""Scores with their mask beside them, so that no minus infinity enters arithmetic."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Scored(NamedTuple):
    """Scores of every token and which tokens are excluded.

    ``values`` is ``(slots, V)`` float32 and finite where it counts; ``excluded`` is ``(slots, V)``
    bool, or None where nothing is.
    """

    values: Tensor
    excluded: Tensor | None

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
        return log_softmax(self.masked())


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


def read(logits: Tensor) -> tuple[Scored, Tensor]:
    """A lane's rows as log-probabilities, and which rows have NaN in them.

    Args:
        logits: ``(rows, V)``; a logit of minus infinity excludes its token.

    Returns:
        The scores, and ``(rows,)`` bool.
    """
    scored = from_masked(torch.log_softmax(logits, dim=-1))
    # One NaN makes its whole row NaN, so that one column tells.
    return scored, scored.values[:, 0].isnan()
