"""A lane whose logits come from outside: somebody else runs the model, and tells what it said."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tables import _Table


class ExternalLane(_Table):
    """Rows of texts, and no weights.

    Attributes:
        said: ``(rows, V)`` or more columns, the logits after the texts as they are; set before
            every step.
    """

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        super().__init__(torch.empty(0, 0, device=device))
        self.vocabulary = vocabulary
        self.said = torch.empty(0, vocabulary, device=device)

    def logits(self) -> Tensor:
        """What was said: ``(rows, V)`` logits of the next token, in float32."""
        return self.said[:, : self.vocabulary].float()
