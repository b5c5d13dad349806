"""Stages as transformers defines them: its own logits processors, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

PROCESSORS: dict[str, type[LogitsProcessor]] = {
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "temperature": TemperatureLogitsWarper,
    "repetition_penalty": RepetitionPenaltyLogitsProcessor,
}


def processed(chain: Sequence[tuple[str, float]], text: Sequence[int], scores: Tensor) -> Tensor:
    """``(V,)`` scores through the processors, minus infinity where a token is excluded."""
    ids, row = torch.tensor([list(text)]), scores[None].clone()
    for name, value in chain:
        argument = int(value) if name == "top_k" else float(value)
        row = PROCESSORS[name](argument)(ids, row)
    return row[0]
