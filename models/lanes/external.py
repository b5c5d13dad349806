"""A lane whose logits the caller computes: it runs no model."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tables import TableLane


class ExternalLane(TableLane):
    """Rows of texts, and no weights.

    Attributes:
        next_logits: ``(rows, V)`` or more columns, after the texts as they are; the caller sets
            them before every step.
    """

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        super().__init__(torch.empty(0, 0, device=device))
        self.vocabulary = vocabulary
        self.next_logits = torch.empty(0, vocabulary, device=device)

    def forward(self) -> bool:
        return True

    def logits(self) -> Tensor:
        return self.next_logits[:, : self.vocabulary].float()
