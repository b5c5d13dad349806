"""What the host is told of each row of a step: that a score was NaN, or that no token is left."""

from __future__ import annotations

import torch
from torch import Tensor

from .context import Context


def alarms(context: Context, best: Tensor) -> Tensor:
    """``(slots,)`` int64: 0, or 1 + the number of the first source that went wrong.

    ``best``, ``(slots,)``, is the best score of each: NaN where any is.
    """
    empty = best == -torch.inf
    if context.masks is not None:
        empty = empty & ~context.masks.over
    wrong = torch.stack([*context.broken.values(), best.isnan(), empty])
    return torch.where(wrong.any(dim=0), wrong.byte().argmax(dim=0) + 1, 0)
