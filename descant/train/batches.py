"""Rows of token ids to padded tensors.

Padding is masked and carries no label: which token pads, and how far, does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .losses import IGNORED

Row = Mapping[str, Sequence[int]]
Batch = dict[str, Tensor]
REJECTED = "rejected_"
INDEX = "example"  # of a row: which of the examples it is


def pad(rows: Sequence[Row], pad_id: int, sides: Sequence[str] = ("",)) -> Batch:
    """Pad rows on the right into ``(B, L)`` tensors: ids, labels and attention mask.

    ``sides`` are prefixes of a row's keys; each is a row of the tensors.
    """
    ids, labels = (
        [torch.tensor([*row[side + key]]) for row in rows for side in sides]
        for key in ("input_ids", "labels")
    )
    return {
        "input_ids": pad_sequence(ids, True, pad_id),
        "labels": pad_sequence(labels, True, IGNORED),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], True, 0),
    }


@dataclass
class Collator:
    """Batches texts, ``(B, L)``, or pairs, ``(B, 2, L)``: chosen, then rejected."""

    pad_id: int

    def __call__(self, rows: Sequence[Row]) -> Batch:
        if REJECTED + "input_ids" not in rows[0]:
            return pad(rows, self.pad_id)
        batch = pad(rows, self.pad_id, ("", REJECTED))
        return {key: value.view(len(rows), 2, -1) for key, value in batch.items()}
