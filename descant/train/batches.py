"""Rows of token ids to padded tensors.

Padding is masked and carries no label, so that which token pads and how far is of no account.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .losses import IGNORED

Row = Mapping[str, Sequence[int]]
Batch = dict[str, Tensor]
REJECTED = "rejected_"


def pad(rows: Sequence[Row], pad_id: int) -> Batch:
    """Pad rows on the right into ``(B, L)`` tensors: ids, labels and attention mask."""
    length = max(len(row["input_ids"]) for row in rows)

    def stack(key: str, fill: int) -> Tensor:
        return torch.tensor([[*row[key], *[fill] * (length - len(row[key]))] for row in rows])

    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    return {
        "input_ids": stack("input_ids", pad_id),
        "labels": stack("labels", IGNORED),
        "attention_mask": (torch.arange(length) < lengths).long(),
    }


class TextCollator:
    """Batches texts: ``(B, L)`` tensors."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Row]) -> Batch:
        return pad(rows, self.pad_id)


class PairCollator:
    """Batches pairs: ``(B, 2, L)`` tensors, chosen then rejected."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, pairs: Sequence[Row]) -> Batch:
        sides = [side for pair in pairs for side in (chosen(pair), rejected(pair))]
        batch = pad(sides, self.pad_id)
        return {key: value.view(len(pairs), 2, -1) for key, value in batch.items()}


def chosen(pair: Row) -> Row:
    """The chosen side of a pair, as a row."""
    return {key: pair[key] for key in ("input_ids", "labels")}


def rejected(pair: Row) -> Row:
    """The rejected side of a pair, as a row."""
    return {key: pair[REJECTED + key] for key in ("input_ids", "labels")}
