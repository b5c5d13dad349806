"""Bytes that a batch must hold: weights, caches, and what a forward and a step work in."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection

import torch

from ...formula.algebra.shift_invariance import unnormalised
from ...formula.scalar import parameters
from ...models import CHUNK, ModelError
from ..binding.bound import Bound
from .cost import shown

VECTORS = 4  # of scores that a step holds beside those of its lanes: their sum, and its noise
SCORE = 4  # bytes
_MANY = 16  # candidates, where their number is a parameter


def cache_bytes(bound: Bound, rows: int, tokens: int) -> int:
    """Bytes of caches for so many requests of so many tokens, over all lanes."""
    return sum(
        lane.token_bytes() * tokens * rows * _rows_per_request(bound, number)
        for number, lane in enumerate(bound.lanes)
    )


def work_bytes(bound: Bound, lanes: Collection[int], slots: int, capacity: int) -> int:
    """The most that is held beside weights and caches at any moment, for these lanes.

    Either some lane reads a chunk of prompts, or the scores of every lane are there and the last
    lane runs.
    """
    reading = stepping = 0
    raw, scores = unnormalised(bound.plan), VECTORS * slots
    for number in lanes:
        lane, rows = bound.lanes[number], slots * _rows_per_request(bound, number)
        reading = max(reading, lane.work_bytes(min(CHUNK, rows * capacity), capacity))
        stepping = max(stepping, lane.work_bytes(rows * _queries(bound, number), capacity))
        terms = {bound_term.term for bound_term in bound.terms if bound_term.lane == number}
        scores += rows * (bool(terms) + bool(terms - raw))
    return max(reading, scores * bound.vocabulary * SCORE + stepping)


def peak_bytes(bound: Bound, slots: int, capacity: int) -> tuple[int, int, int]:
    """Bytes of weights, of caches, and of work at its most, for so many rows of so many tokens."""
    held: dict[int, int] = {}
    for lane in bound.lanes:
        held |= lane.memory_bytes()
    work = work_bytes(bound, range(len(bound.lanes)), slots, capacity)
    return sum(held.values()), cache_bytes(bound, slots, capacity), work


def check_room(bound: Bound, slots: int, capacity: int) -> None:
    """Refuse a batch that cannot fit, before anything is allocated.

    What the lanes hold from an earlier run makes room for this one.

    Raises:
        ModelError: says how many bytes there are, and how many rows would fit.
    """
    for device in dict.fromkeys(lane.device for lane in bound.lanes):
        lanes = [(i, lane) for i, lane in enumerate(bound.lanes) if lane.device == device]
        each = sum(lane.token_bytes() * capacity * _rows_per_request(bound, i) for i, lane in lanes)
        free = free_bytes(device)
        if free is None or each == 0:
            continue
        free += sum(lane.held_bytes() for _, lane in lanes)
        numbers = [i for i, _ in lanes]

        def needs(rows: int, numbers: list[int] = numbers, each: int = each) -> int:
            return each * rows + work_bytes(bound, numbers, rows, capacity)

        if needs(slots) > free:
            fits = bisect_right(range(slots), free, key=needs) - 1
            raise ModelError(
                f"{slots} rows of {capacity} tokens need {shown(each * slots)} of caches and "
                f"{shown(needs(slots) - each * slots)} to work in, and {shown(free)} are free on "
                f"{device}",
                f"batch_size={fits} fits" if fits > 0 else "give fewer max_new_tokens",
                topic="memory",
            )


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None where it does not say."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type == "cpu" and os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":", 1) for line in file)
        return int(found["MemAvailable"].split()[0]) << 10
    return None


def _queries(bound: Bound, number: int) -> int:
    """Tokens that one row of a lane reads in a step, at most."""
    place = next(bound_term.address for bound_term in bound.all_terms if bound_term.lane == number)
    stage = dict(bound.plan.reranks).get(place) if place is not None else None
    if stage is None:
        return 1
    known = not parameters(stage.k.expression)
    return 1 + int(bound.plan.value(stage.k, {}) if known else _MANY)


def _rows_per_request(bound: Bound, number: int) -> int:
    """Rows that one request has in a lane."""
    return sum(bound_term.lane == number for bound_term in bound.all_terms)
