"""Rewriting: rows of a batch go on from other answers than those that they have drawn.

A row goes on as a copy of another, from an earlier token, or from an answer that somebody chose.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .batch import Batch
from .changes import upload_changes


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
    batch.state.copy(sources)
    batch.changed()
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
    for slot, (answer, _, key, score) in rewrites.items():
        batch.state.rewrite(slot, key, len(answer), batch.start(slot, answer, score))
    batch.changed()
    for lane, owned in zip(batch.bound.lanes, batch.owned, strict=True):
        texts = {}
        for row, (number, slot) in enumerate(owned):
            if slot in rewrites:
                change, term = rewrites[slot], batch.row_maps[number].term
                read = term.term_ids(change.tokens[: change.read])
                unread = term.term_ids(change.tokens[change.read :])
                texts[row] = (batch.prompt_length(number, slot) + len(read), unread)
        lane.rows.rewrite(texts)


def read_on(batch: Batch, tokens: Sequence[int]) -> None:
    """Give the lanes of other vocabularies the rest of what they read for the drawn tokens.

    A step has given them the first. A row that would leave its model's positions is over.
    """
    for number in batch.token_columns:
        lane, last = batch.bound.lanes[number], (batch.bound.positions or sys.maxsize) - 1
        longer: dict[int, tuple[int, Sequence[int]]] = {}
        ends = lane.rows.counts()[1]
        for row, (index, slot) in enumerate(batch.owned[number]):
            rest = batch.row_maps[index].term.term_ids([tokens[slot]])[1:]
            if rest or ends[row] > last:
                kept = min(ends[row], last)
                longer[row] = (kept, rest[: last - kept])
        read = [kept + len(rest) for kept, rest in longer.values()]
        grow(lane, 1 + max([*ends, *read], default=0))
        if longer:
            lane.rows.rewrite(longer)


def grow(lane: Any, tokens: int, rows: int = 1) -> None:
    """Make sure that a lane has room for texts of so many tokens, in so many rows at once."""
    if tokens > lane.rows.capacity:
        lane.grow(2 * tokens, tokens=2 * tokens * rows)


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
