"""Rewards of the texts that rows have read so far, where a search values them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .batch import Batch
from .changes import upload_changes


def text_rewards(batch: Batch, lane: int, lengths: Sequence[int]) -> Tensor:
    """``(rows, labels)`` of a reward lane: its texts so far, each cut to what was answered.

    Per slot, the answer has ``lengths`` tokens; whatever was drawn after them is dropped.
    """
    owned, reward_lane = batch.owned[lane], batch.bound.lanes[lane]
    reward_lane.rows.rewrite({
        row: (batch.prompt_length(number, slot) + lengths[slot], ())
        for row, (number, slot) in enumerate(owned)
    })  # fmt: skip
    upload_changes([batch])
    rows = reward_lane.rows.width
    nothing = torch.zeros(rows, 0, dtype=torch.long, device=batch.device)
    rewards = {lane: reward_lane.rewards(nothing)}
    if batch.bound.term_parallel is not None:
        rewards = batch.bound.term_parallel.all_reduce_rewards(rewards)
    outputs: Tensor = rewards[lane][1]
    return outputs
