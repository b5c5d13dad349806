"""A lane whose weights are on another rank: bookkeeping, and zeros for the all-reduce."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..footprint import Footprint
from .transformers_lane import TransformersLane


class RemoteLane(TransformersLane):
    """The same rows, in the same order, as on the rank that runs the model.

    Its outputs are zeros of the shape of the model's: the all-reduce adds the two.

    Args:
        model: the shapes alone, as ``load_model(…, skeleton=True)`` makes them.
        vocabulary: as on the other rank.
        reads_all: as on the other rank.
        device: of the bookkeeping and the zeros.
    """

    def __init__(self, model: Any, vocabulary: int, reads_all: bool, device: str) -> None:
        super().__init__(model, vocabulary, reads_all)
        self.device = torch.device(device)
        self.reserve(0, 0)

    def logits(self) -> Tensor:
        """``(rows, V)`` zeros."""
        self._catch_up()
        self.rows.mark_cached()
        return torch.zeros(self.rows.count, self.vocabulary, device=self.device)

    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(rows, k, labels)`` zeros, and ``(rows, labels)`` where the text's own is read too."""
        rows, k = candidates.shape
        self._catch_up()
        shape = self.head(torch.zeros(rows, k + 1, self.config.hidden_size, device="meta")).shape
        zeros = torch.zeros(shape, device=self.device)
        if self._reads_all:
            return zeros[:, 1:], None
        self.rows.mark_cached()
        return zeros[:, 1:], zeros[:, 0]

    def footprint(self) -> Footprint:
        """What a forward on the other rank reads; nothing is in memory here."""
        return replace(super().footprint(), cache_bytes=0, memory={}, work=())

    def _forward(self, *arguments: Any, **settings: Any) -> None:
        """Run nothing."""
