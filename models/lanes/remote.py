"""A lane whose weights are on another rank: bookkeeping, and zeros for the all-reduce."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
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
        vocabulary, reads_all: as on the other rank.
        device: of the bookkeeping and the zeros.
    """

    page_size, shares_prefixes = 0, False

    def __init__(self, model: Any, vocabulary: int, reads_all: bool, device: str) -> None:
        super().__init__(model, vocabulary, reads_all)
        self.device = torch.device(device)
        self.reserve(0, 0)

    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
        rewards, of_texts = super().rewards(candidates)
        return self._zeros(rewards), None if of_texts is None else self._zeros(of_texts)

    def rewards_along(self, candidates: Tensor, after: Tensor, most: int) -> tuple[Tensor, Tensor]:
        rewards, of_texts = super().rewards_along(candidates, after, most)
        return self._zeros(rewards), self._zeros(of_texts)

    def _zeros(self, outputs: Tensor) -> Tensor:
        return torch.zeros_like(outputs, device=self.device)

    def footprint(self) -> Footprint:
        return replace(super().footprint(), cache_bytes=0, memory={}, work=())

    def _forward(self, tokens: Tensor, *arguments: Any, **settings: Any) -> Any:
        """Zeros in place of logits; hidden states have a shape alone."""
        zero = torch.zeros((), dtype=self.dtype, device=self.device)
        hidden = torch.empty(*tokens.shape, self.config.hidden_size, device="meta")
        logits = zero.expand(*tokens.shape, self.width)
        return SimpleNamespace(logits=logits, last_hidden_state=hidden)
