"""Rewriting: rows of a batch go on from other answers than those that they have drawn.

A row goes on as a copy of another, from an earlier token, or from an answer that somebody chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .batch import Batch


class Rewrite(NamedTuple):
    """A row's answer, where it is not simply what the row has drawn.

    Attributes:
        tokens: the answer.
        read: how many of its first tokens the row has read just so.
        key: the noise of what it draws next.
        search_score: the sum of its scores by the models of a search.
    """

    tokens: Sequence[int]
    read: int
    key: tuple[int, int]
    search_score: float


def copy_slots(batch: Batch, sources: Sequence[int]) -> None:
    """Make each slot i what slot ``sources[i]`` was; its noise stays its own.

    Slot and source must be rows of one request's values.
    """
    moved = [(source, slot) for slot, source in enumerate(sources) if source != slot]
    if not moved:
        return
    origins, targets = map(list, zip(*moved, strict=True))
    for tensor in filter(torch.is_tensor, [batch.steps, batch.search_score, batch.seen]):
        tensor[targets] = tensor[origins]
    rows: list[list[tuple[int, int]]] = [[] for _ in batch.bound.lanes]
    for row_map in batch.row_maps:
        for source, slot in moved:
            from_row, to_row = row_map.held[source], row_map.held[slot]
            if from_row is not None and to_row is not None:
                rows[row_map.term.lane].append((from_row, to_row))
    for lane, pairs in zip(batch.bound.lanes, rows, strict=True):
        if pairs:
            lane.copy_rows(*map(list, zip(*pairs, strict=True)))


def rewrite(batch: Batch, rewrites: Mapping[int, Rewrite]) -> None:
    """Go on from other answers than those that were drawn, in these slots."""
    if not rewrites:
        return
    slots, (answers, _, keys, scores) = list(rewrites), zip(*rewrites.values(), strict=True)
    batch.steps[slots] = torch.tensor([*map(len, answers)], device=batch.device)
    batch.keys[slots] = torch.tensor(keys, dtype=torch.int32, device=batch.device)
    batch.search_score[slots] = torch.tensor(scores, device=batch.device)
    for slot, answer in zip(slots, answers, strict=True):
        batch.see(slot, answer)
    for lane, owned in zip(batch.bound.lanes, batch.owned, strict=True):
        texts = {}
        for row, (number, slot) in enumerate(owned):
            if slot in rewrites:
                change, term = rewrites[slot], batch.row_maps[number].term
                read = term.term_ids(change.tokens[: change.read])
                unread = term.term_ids(change.tokens[change.read :])
                texts[row] = (batch.prompt_length(number, slot) + len(read), unread)
        lane.rows.rewrite(texts)


def text_rewards(batch: Batch, lane: int, lengths: Sequence[int]) -> Tensor:
    """``(rows, labels)`` of a reward lane: its texts so far, each cut to what was answered.

    Per slot, the answer has ``lengths`` tokens; whatever was drawn after them is dropped.
    """
    owned, reward_lane = batch.owned[lane], batch.bound.lanes[lane]
    reward_lane.rows.rewrite({
        row: (batch.prompt_length(number, slot) + lengths[slot], ())
        for row, (number, slot) in enumerate(owned)
    })  # fmt: skip
    rows = reward_lane.rows.width
    nothing = torch.zeros(rows, 0, dtype=torch.long, device=batch.device)
    rewards = {lane: reward_lane.rewards(nothing)}
    if batch.bound.term_parallel is not None:
        rewards = batch.bound.term_parallel.all_reduce_rewards(rewards)
    outputs: Tensor = rewards[lane][1]
    return outputs
