"""What rows add to weights, as tests say it."""

from __future__ import annotations

from typing import Any

import torch

from descant.models.combinations import Chosen, Combination, chosen


def of_slot(slot: int) -> Combination:
    """One of a slot of its own, for rows without a model; those of one slot are not one object."""
    return Combination(slot, parts=int(slot > 0), take=lambda combination: slot)


def rows_of(adapters: Any, *rows: Any) -> Chosen | None:
    """A forward's rows: the number of what each adds, 0 for nothing, or pairs of it and a weight.

    The slots of these are nobody else's as long as nothing else is combined.
    """
    weights = [row if isinstance(row, list) else [(row, 1.0)] * (row > 0) for row in rows]
    return chosen([adapters.combination(row) for row in weights], torch.device("cpu"))
