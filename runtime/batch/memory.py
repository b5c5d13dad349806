"""Bytes that a batch needs: weights, caches, and what a forward and a step work in."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping
from functools import partial

import torch

from ...formula import Plan
from ...formula.algebra.shift_invariance import unnormalised
from ...formula.scalar import parameters
from ...formula.words.stages import Rerank
from ...models import ModelError
from ...models.footprint import Footprint
from ...models.lanes.prefill import CHUNK
from ..binding.bound import Bound
from .cost import si_bytes

VECTORS = 4  # of scores that a step holds, apart from its lanes' logits: their sum and its noise
SCORE_BYTES = 4
_ASSUMED_CANDIDATES = 16  # where their number is a parameter


def cache_bytes(bound: Bound, rows: int, tokens: int) -> int:
    """Bytes of caches for so many requests of so many tokens, over all lanes."""
    return rows * tokens * _token_bytes(bound, _footprints(bound))


def work_bytes(bound: Bound, footprints: Mapping[int, Footprint], slots: int, capacity: int) -> int:
    """The most memory that these lanes need at any moment, apart from weights and caches.

    Either a lane reads a chunk of prompts, or every lane's logits are in memory and the last lane
    runs.
    """
    prefill = step = kept = 0
    raw, scores = unnormalised(bound.plan), VECTORS * slots
    for number, footprint in footprints.items():
        rows = slots * _rows_per_request(bound, number)
        prefill = max(prefill, footprint.work_bytes(min(CHUNK, rows * capacity), capacity))
        step = max(step, footprint.work_bytes(rows * _queries(bound, number), capacity))
        terms = {bound_term.term for bound_term in bound.terms if bound_term.lane == number}
        kept += rows * bool(terms)  # what follows the prompts
        scores += rows * (bool(terms) + bool(terms - raw))
    vector = bound.vocabulary * SCORE_BYTES
    return max(prefill + kept * vector, scores * vector + step)


def peak_bytes(bound: Bound, slots: int, capacity: int) -> tuple[int, int, int]:
    """Bytes of weights, of caches, and of work at its most, for so many rows of so many tokens."""
    footprints = _footprints(bound)
    memory = dict(pair for each in footprints.values() for pair in each.memory.items())
    caches = slots * capacity * _token_bytes(bound, footprints)
    return sum(memory.values()), caches, work_bytes(bound, footprints, slots, capacity)


def check_room(bound: Bound, slots: int, capacity: int) -> None:
    """Refuse a batch that cannot fit, before anything is allocated.

    The caches of an earlier batch count as free: this one replaces them.

    Raises:
        ModelError: says how many bytes there are, and how many rows would fit.
    """
    for device in dict.fromkeys(lane.device for lane in bound.lanes):
        footprints = _footprints(bound, device)
        per_row = capacity * _token_bytes(bound, footprints)
        free = free_bytes(device)
        if free is None or per_row == 0:
            continue
        free += sum(footprint.cache_bytes for footprint in footprints.values())
        needed = partial(_needed, bound, footprints, capacity)
        if needed(slots) > free:
            fits = bisect_right(range(slots), free, key=needed) - 1
            cure = f"batch_size={fits} fits" if fits > 0 else "give fewer max_new_tokens"
            work = needed(slots) - per_row * slots
            need = f"{si_bytes(per_row * slots)} of caches and {si_bytes(work)} to work in"
            problem = f"{slots} rows of {capacity} tokens need {need}"
            problem += f", and {si_bytes(free)} are free on {device}"
            raise ModelError(problem, cure, topic="memory")


def _needed(bound: Bound, footprints: Mapping[int, Footprint], capacity: int, rows: int) -> int:
    """Bytes of caches and work for so many rows."""
    caches = rows * capacity * _token_bytes(bound, footprints)
    return caches + work_bytes(bound, footprints, rows, capacity)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None where that is unknown."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    if device.type == "cpu" and os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) << 10
    return None


def _queries(bound: Bound, number: int) -> int:
    """Tokens that one row of a lane reads in a step, at most."""
    address = next(term.address for term in bound.all_terms if term.lane == number)
    stage = dict(bound.plan.reranks).get(address) if address is not None else None
    return 1 + (candidates(bound.plan, stage, _ASSUMED_CANDIDATES) if stage else 0)


def candidates(plan: Plan, stage: Rerank, unknown: int) -> int:
    """Candidates of a stage that reranks; ``unknown`` where a parameter says how many."""
    return unknown if parameters(stage.k.expression) else int(plan.value(stage.k, {}))


def _footprints(bound: Bound, device: torch.device | None = None) -> dict[int, Footprint]:
    """The costs of the lanes, or of those on one device, by their numbers."""
    lanes = enumerate(bound.lanes)
    return {i: lane.footprint() for i, lane in lanes if device in (None, lane.device)}


def _token_bytes(bound: Bound, footprints: Mapping[int, Footprint]) -> int:
    """Bytes of cache that one token of one request takes, in all rows of these lanes."""
    return sum(each.token_bytes * _rows_per_request(bound, i) for i, each in footprints.items())


def _rows_per_request(bound: Bound, number: int) -> int:
    """Rows that one request has in a lane."""
    return sum(bound_term.lane == number for bound_term in bound.all_terms)
