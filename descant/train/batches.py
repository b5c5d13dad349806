"""Rows of token ids to padded tensors.

Padding is masked and carries no label: which token pads, and how far, does not matter.
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


class Collator:
    """Batches texts, ``(B, L)``, or pairs, ``(B, 2, L)``: chosen, then rejected."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, rows: Sequence[Row]) -> Batch:
        if REJECTED + "input_ids" not in rows[0]:
            return pad(rows, self.pad_id)
        sides = [
            {key: row[prefix + key] for key in ("input_ids", "labels")}
            for row in rows
            for prefix in ("", REJECTED)
        ]
        batch = pad(sides, self.pad_id)
        return {key: value.view(len(rows), 2, -1) for key, value in batch.items()}
