"""Rewriting: rows of a batch go on from other answers than those that they have drawn.

A row goes on as a copy of another, from an earlier token, or from an answer that somebody chose.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..scores.token_tables import TokenTable, add_tokens
from .row_map import RowMap
from .slot_state import SlotState, Start


class Rewrite(NamedTuple):
    """A row's answer, where it is not simply what the row has drawn.

    Attributes:
        tokens: the answer.
        read: how many of its first tokens the row has read just so.
        key: the noise of what it draws next.
        search_scores: the answer's, as ``SlotState`` has them; empty for zeros.
    """

    tokens: Sequence[int]
    read: int
    key: tuple[int, int]
    search_scores: Sequence[float] = ()


class SlotRows(Protocol):
    """A batch, as far as the texts of its slots go; attributes are those of ``Batch``."""

    bound: Any
    device: torch.device
    row_maps: list[RowMap]
    owned: list[list[tuple[int, int]]]
    token_columns: dict[int, Any]
    state: SlotState
    tables: dict[TokenTable, Tensor]
    thoughts: Any
    stale: bool

    def changed(self) -> None:
        """What the devices have of the slots is not what the host has."""

    def start(self, slot: int, answer: Sequence[int], search_scores: Sequence[float] = ()) -> Start:
        """What a slot goes on from that has this answer."""

    def prompt_length(self, number: int, slot: int) -> int:
        """Tokens that a row of a row map read before the answer."""


def copy_slots(batch: SlotRows, sources: Sequence[int]) -> None:
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


def rewrite(batch: SlotRows, rewrites: Mapping[int, Rewrite]) -> None:
    """Go on from other answers than those that were drawn, in these slots."""
    if not rewrites:
        return
    for slot, (answer, _, key, scores) in rewrites.items():
        batch.state.rewrite(slot, key, len(answer), batch.start(slot, answer, scores))
    batch.changed()
    _rewrite_texts(batch, rewrites)
    save(batch)  # who goes back once does so again


def save(batch: SlotRows) -> None:
    """Have all lanes keep what it takes to cut their texts back to here."""
    for lane, owned in zip(batch.bound.lanes, batch.owned, strict=True):
        if owned:
            lane.save()


def take_back(batch: SlotRows, answers: Mapping[int, Sequence[int]]) -> None:
    """Have slots end in these answers, without what they have drawn after them.

    Of that, stages may still see the tokens: such a slot is rewritten before it goes on.
    """
    if answers:
        for slot, answer in answers.items():
            batch.state.take_back(slot, len(answer))
        batch.changed()
        ends = {i: Rewrite(each, len(each), (0, 0), ()) for i, each in answers.items()}
        _rewrite_texts(batch, ends)


def _rewrite_texts(batch: SlotRows, rewrites: Mapping[int, Rewrite]) -> None:
    for lane, owned in zip(batch.bound.lanes, batch.owned, strict=True):
        texts = {}
        for row, (number, slot) in enumerate(owned):
            if slot in rewrites:
                change, term = rewrites[slot], batch.row_maps[number].term
                read = term.term_ids(change.tokens[: change.read])
                unread = term.term_ids(change.tokens[change.read :])
                texts[row] = (batch.prompt_length(number, slot) + len(read), unread)
        lane.rows.rewrite(texts)


def read_on(batch: SlotRows, tokens: Sequence[int], slots: Container[int] | None = None) -> None:
    """Give the lanes of other vocabularies the rest of what they read for the drawn tokens.

    A step has given them the first. A row that would leave its model's positions is over.

    Args:
        batch: its rows.
        tokens: drawn, one per slot.
        slots: that have been given one; left out, all.
    """
    for number in batch.token_columns:
        lane, last = batch.bound.lanes[number], (batch.bound.positions or sys.maxsize) - 1
        longer: dict[int, tuple[int, Sequence[int]]] = {}
        ends = lane.rows.counts()[1]
        for row, (index, slot) in enumerate(batch.owned[number]):
            if slots is not None and slot not in slots:
                continue
            rest = batch.row_maps[index].term.term_ids([tokens[slot]])[1:]
            if rest or ends[row] > last:
                kept = min(ends[row], last)
                longer[row] = (kept, rest[: last - kept])
        read = [kept + len(rest) for kept, rest in longer.values()]
        grow(lane, 1 + max([*ends, *read], default=0))
        if longer:
            lane.rows.rewrite(longer)


def append(batch: SlotRows, tokens: Sequence[Sequence[int]]) -> None:
    """Add tokens to the texts of every slot, for all its models to read."""
    for lane, owned in zip(batch.bound.lanes, batch.owned, strict=True):
        texts, ends = dict[int, tuple[int, Sequence[int]]](), lane.rows.counts()[1]
        for row, (number, slot) in enumerate(owned):
            if tokens[slot]:
                texts[row] = ends[row], batch.row_maps[number].term.term_ids(tokens[slot])
        if texts:
            grow(lane, max(end + len(ids) for end, ids in texts.values()))
            lane.rows.rewrite(texts)


def replace_drafted(
    batch: SlotRows, drafted: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]
) -> None:
    """Go on in every slot with the tokens that were drawn, in place of those that were drafted.

    Nothing is copied: lengths move back to where the two agree.

    Args:
        batch: its rows, whose texts end in what was drafted.
        drafted: per slot; where no model has another vocabulary, how many is enough.
        tokens: per slot, the first of those drafted and one more; or none, to stay where it was.
    """
    for lane, owned in zip(batch.bound.lanes, batch.owned, strict=True):
        texts, ends = dict[int, tuple[int, Sequence[int]]](), lane.rows.counts()[1]
        for row, (number, slot) in enumerate(owned):
            term, kept = batch.row_maps[number].term, tokens[slot][:-1]
            read = len(term.term_ids(kept)) - len(term.term_ids(drafted[slot]))
            texts[row] = ends[row] + read, term.term_ids(tokens[slot][-1:])
        lane.rows.rewrite(texts)
    batch.state.go_on([len(each) for each in tokens])
    batch.stale = True
    add_tokens(batch.tables, tokens)
    if batch.thoughts is not None:
        batch.thoughts.read_all(tokens)


def grow(lane: Any, tokens: int, rows: int = 1) -> None:
    """Make sure that a lane has room for texts of so many tokens, in so many rows at once."""
    if tokens > lane.rows.capacity:
        lane.grow(2 * tokens, tokens=2 * tokens * rows)
