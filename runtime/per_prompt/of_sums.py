"""Gates of a sum of scores: what is kept of texts, with coefficients of their own at each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...formula.scalar import Parameter
from ..fit.differentiable import Summand
from ..fit.kept_scores import Block, Scores
from ..fit.likelihoods import refuse_excluded
from ..scores.expressions import computed
from .gates import Piece

FLOATS = 2**22  # of one piece's scores


def pieces_of(
    summands: Sequence[Summand],
    names: Sequence[str],
    fixed: Mapping[str, float],
    kept: Scores,
) -> Callable[[], Iterator[Piece]]:
    """What goes through all positions, with the likelihood of each by its own parameters.

    Args:
        summands: of the sum.
        names: of the gated parameters, in order; and ``fixed``, what the others are.
        kept: the scores of each summand at each position.
    """

    def pieces() -> Iterator[Piece]:
        for block in kept.blocks(max(1, FLOATS // kept.width)):
            places = slice(block.number, block.number + len(block.targets))
            yield places, partial(_likelihood, block)

    def _likelihood(block: Block, values: Tensor) -> Tensor:
        known: dict[Any, Any] = {Parameter(name): value for name, value in fixed.items()}
        known |= {Parameter(name): values[:, i] for i, name in enumerate(names)}
        one = torch.ones(len(values))
        weights = torch.stack([computed(each.coefficient, known.get) * one for each in summands], 1)
        scores = block.features.view(len(block.targets), len(summands), -1)
        hidden = scores == -torch.inf
        total = torch.einsum("nm,nmv->nv", weights, scores.masked_fill(hidden, 0.0))
        total = total.masked_fill(hidden.any(1), -torch.inf)
        of_target = total.gather(1, block.targets[:, None])[:, 0]
        refuse_excluded(of_target.detach(), block.owners)
        return of_target - total.logsumexp(1)

    return pieces


def states_in_order(kept: Scores, states: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
    """``(positions, hidden)`` the states of what was kept, and ``(positions,)`` whose they are.

    Args:
        states: per text, ``(tokens, hidden)``.
    """
    found, owners = [], []
    for block in kept.blocks(1 << 30):
        places = zip(block.owners.tolist(), block.steps.tolist(), strict=True)
        found += [states[owner][step] for owner, step in places]
        owners.append(block.owners)
    return torch.stack(found), torch.cat(owners)
