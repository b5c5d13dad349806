"""Scores with their mask beside them, and the walk that computes them from a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..formula.plan import Linear, Read
from ..formula.plan import Scores as Expression


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


def read(logits: Tensor) -> tuple[Scored, Tensor]:
    """A lane's rows as log-probabilities, and which rows have NaN in them.

    Args:
        logits: ``(rows, V)``; a logit of minus infinity excludes its token.

    Returns:
        The scores, and ``(rows,)`` bool.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    excluded = logprobs == -torch.inf
    # One NaN makes its whole row NaN, so that one column tells.
    return Scored(logprobs.masked_fill_(excluded, 0.0), excluded), logprobs[:, 0].isnan()


def evaluate(
    expression: Expression, terms: Mapping[int, Callable[[], Scored]], values: Tensor
) -> Scored:
    """The scores of an expression.

    Args:
        expression: of the plan.
        terms: the scores of each term that any row needs; one that no row needs is not there.
        values: ``(slots, scalars)`` float32, the plan's numbers for each row.
    """
    match expression:
        case Read(term):
            return terms[term]()
        case Linear(parts, shift):
            total: Tensor | None = None
            excluded: Tensor | None = None
            for index, part in parts:
                if isinstance(part, Read) and part.term not in terms:
                    continue
                scored = evaluate(part, terms, values)
                weight = values[:, index, None]
                scaled = scored.values * weight
                total = scaled if total is None else total.add_(scaled)
                if scored.excluded is not None:
                    hidden = scored.excluded & (weight != 0)
                    excluded = hidden if excluded is None else excluded.logical_or_(hidden)
            assert total is not None
            if shift is not None:
                total = total.add_(values[:, shift, None])
            return Scored(total, excluded)
