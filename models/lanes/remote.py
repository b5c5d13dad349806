"""A lane whose weights another process holds: its books are kept here, and it says nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .footprint import Footprint
from .transformers_lane import TransformersLane


class RemoteLane(TransformersLane):
    """The same rows, in the same order, as those of the process that runs the model.

    What it says is zeros, of the shape of what the model says there: the two are added.

    Args:
        model: the shapes alone, as ``load_model(…, skeleton=True)`` gives them.
        vocabulary: as there.
        reads_all: as there.
        device: where this process keeps its books.
    """

    def __init__(self, model: Any, vocabulary: int, reads_all: bool, device: str) -> None:
        super().__init__(model, vocabulary, reads_all)
        self.device = torch.device(device)
        self.reserve(0, 0)

    def logits(self) -> Tensor:
        """``(rows, V)`` zeros."""
        self._catch_up()
        self._rows.cached(but=0)
        return torch.zeros(self._rows.count, self.vocabulary, device=self.device)

    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(rows, k, labels)`` zeros, and ``(rows, labels)`` where the text's own is asked for."""
        rows, k = candidates.shape
        self._catch_up()
        shape = self.head(torch.zeros(rows, k + 1, self.config.hidden_size, device="meta")).shape
        said = torch.zeros(shape, device=self.device)
        if self._reads_all:
            return said[:, 1:], None
        self._rows.cached(but=0)
        return said[:, 1:], said[:, 0]

    def footprint(self) -> Footprint:
        """The bytes that the other rank reads; nothing is in memory here."""
        return replace(super().footprint(), cache_bytes=0, memory={}, work=())

    def _forward(self, *arguments: Any, **settings: Any) -> None:
        """Nothing."""
