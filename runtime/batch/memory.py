"""Bytes that a batch needs: weights, caches, and what a forward and a step work in."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import partial

import torch

from ...formula import Plan
from ...formula.algebra.shift_invariance import unnormalised
from ...formula.scalar import parameters
from ...formula.words.stages import Rerank
from ...models import ModelError
from ...models.footprint import Footprint
from ...models.kernels.live_attention import CHUNK as PAGE
from ...models.lanes.prefill import CHUNK
from ..binding.bound import Bound
from .cost import si_bytes

VECTORS = 4  # of scores that a step holds, apart from its lanes' logits: their sum and its noise
SCORE_BYTES = 4
_ASSUMED_CANDIDATES = 16  # where their number is a parameter


def cache_bytes(bound: Bound, rows: int, tokens: int) -> int:
    """Bytes of caches for so many requests of so many tokens, over all lanes."""
    return caches_of(bound, _footprints(bound), rows, tokens)


def caches_of(bound: Bound, footprints: Mapping[int, Footprint], rows: int, tokens: int) -> int:
    """The same over some lanes, or parts of lanes."""
    return rows * (tokens * _token_bytes(bound, footprints) + _row_bytes(bound, footprints))


def work_bytes(
    bound: Bound,
    footprints: Mapping[int, Footprint],
    slots: int,
    capacity: int,
    room_for_copies: bool = True,
) -> int:
    """The most memory that these lanes need at any moment, apart from weights and caches.

    Either a lane reads a chunk of prompts, or every lane's logits are in memory and the last lane
    runs; by then, what was read has been copied for others that begin alike.
    """
    prefill = step = kept = copies = own = 0
    raw, scores = unnormalised(bound.plan), VECTORS * slots
    for number, footprint in footprints.items():
        rows = slots * _rows_per_request(bound, number)
        prefill = max(prefill, footprint.work_bytes(min(CHUNK, rows * capacity), capacity))
        each = queries(bound, number)
        copied = rows * (each - 1) * footprint.row_bytes  # by candidates
        step = max(step, footprint.work_bytes(rows * each, capacity) + copied)
        terms = {bound_term.term for bound_term in bound.terms if bound_term.lane == number}
        reads = {r for r in bound.plan.reads if r.term in terms and not r.is_number}
        heads = {read.head for read in reads} | ({""} if terms else set())
        kept += rows * len(heads)  # what follows the prompts
        of_rows = rows * (capacity * footprint.token_bytes + footprint.row_bytes)
        own = min(of_rows, footprint.kept_bytes)
        copies += own
        scores += rows * (len(heads) + len({read.head for read in reads - raw}))
    vector = bound.vocabulary * SCORE_BYTES
    if not room_for_copies:
        copies = own = 0
    before_last = copies - own  # of the lanes whose prompts are read before the last one's
    return max(prefill + kept * vector + before_last, scores * vector + step + copies)


def peak_bytes(bound: Bound, slots: int, capacity: int) -> tuple[int, int, int]:
    """Bytes of weights, of caches, and of work at its most, for so many rows of so many tokens."""
    footprints = _footprints(bound)
    each = capacity * _token_bytes(bound, footprints) + _row_bytes(bound, footprints)
    caches = slots * each + _scratch(bound, footprints)
    return held_bytes(footprints), caches, work_bytes(bound, footprints, slots, capacity)


def fitting_tokens(bound: Bound, utilization: float, slots: int, capacity: int) -> int | None:
    """How many tokens fit, over all requests: each of them in every row that a request has.

    Weights, caches and work take at most this share of a GPU's memory; of several GPUs, the one
    that is full first counts.

    Args:
        utilization: the share.
        slots: rows at once, and ``capacity``, tokens of each, by which the work is counted.

    Returns:
        None where no GPU holds a cache.
    """
    fits = []
    for device, footprints in _parts(bound).items():
        token_bytes = _token_bytes(bound, footprints)
        if device.type == "cuda" and token_bytes:
            work = work_bytes(bound, footprints, slots, capacity)
            held = held_bytes(footprints) + _scratch(bound, footprints)
            held += slots * _row_bytes(bound, footprints)
            free = utilization * total_bytes(device) - held - work
            fits.append(max(0, int(free // token_bytes)))
    return min(fits, default=None)


def gpu_memory(bound: Bound) -> list[int]:
    """The memory of each GPU that a plan runs on, whoever uses it."""
    return [total_bytes(device) for device in _parts(bound) if device.type == "cuda"]


def room(
    bound: Bound,
    slots: int,
    capacity: int,
    utilization: float,
    tokens: int,
    share: float = 1.0,
) -> int:
    """Tokens of all requests at once that lanes with pages have room for, before any is allocated.

    The caches of an earlier batch count as free: this one replaces them, unless its lanes keep the
    pages that they have.

    Args:
        slots: rows at once, and ``capacity``, tokens of each.
        utilization: the share of a GPU's memory that may be taken.
        tokens: all that the requests could need.
        share: of what is free then that pages may take, beyond those of one text.

    Raises:
        ModelError: rows side by side, or a single text in pages, do not fit; says how many bytes
            there are.
    """
    for device, footprints in _parts(bound).items():
        free = free_bytes(device)
        if free is None or not _token_bytes(bound, footprints) + _row_bytes(bound, footprints):
            continue
        kept = {i: each for i, each in footprints.items() if bound.lanes[i].keeps_pages}
        new = {i: each for i, each in footprints.items() if i not in kept}
        free += sum(footprint.cache_bytes for footprint in new.values())
        if device.type == "cuda":
            free -= int((1 - utilization) * total_bytes(device))
        for number, each in kept.items():
            all_rows = each.token_bytes * _rows_per_request(bound, number)
            tokens = min(tokens, each.cache_bytes // all_rows)
        paged = {i: each for i, each in new.items() if bound.lanes[i].is_paged}
        fixed = {i: each for i, each in new.items() if i not in paged}
        needed = partial(_needed, bound, footprints, fixed, paged, capacity)
        if needed(slots) > free:
            who = f"{slots} rows of {capacity} tokens need"
            if not fixed:  # in pages, of which there are enough for one text
                who = f"one text of {capacity} tokens, and a step of {slots}, need"
            raise _too_much(bound, footprints, slots, capacity, who, needed, free, str(device))
        if page_bytes := _token_bytes(bound, paged):
            more = int(share * (free - needed(slots))) // page_bytes
            tokens = min(tokens, capacity + more // PAGE * PAGE)
    return tokens


def _needed(
    bound: Bound,
    footprints: Mapping[int, Footprint],
    fixed: Mapping[int, Footprint],
    paged: Mapping[int, Footprint],
    capacity: int,
    rows: int,
) -> int:
    """Bytes for so many rows: of rows side by side, of one text in pages, and of work."""
    caches = capacity * (rows * _token_bytes(bound, fixed) + _token_bytes(bound, paged))
    caches += rows * _row_bytes(bound, fixed)
    caches += _scratch(bound, paged)
    return caches + work_bytes(bound, footprints, rows, capacity, room_for_copies=False)


def _too_much(
    bound: Bound,
    footprints: Mapping[int, Footprint],
    slots: int,
    capacity: int,
    who: str,
    needed: Callable[[int], int],
    free: int,
    device: str,
) -> ModelError:
    fits = bisect_right(range(slots), free, key=needed) - 1
    cure = f"batch_size={fits} fits" if fits > 0 else "give fewer max_new_tokens"
    work = work_bytes(bound, footprints, slots, capacity, room_for_copies=False)
    need = f"{si_bytes(needed(slots) - work)} of caches and {si_bytes(work)} to work in"
    return ModelError(
        f"{who} {need}, and {si_bytes(free)} are free on {device}", cure, topic="memory"
    )


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


def total_bytes(device: torch.device) -> int:
    """Bytes of a GPU's memory, in use or free."""
    return int(torch.cuda.mem_get_info(device)[1])


def queries(bound: Bound, number: int) -> int:
    """Tokens that one row of a lane reads in a step, at most."""
    address = next(term.address for term in bound.all_terms if term.lane == number)
    stage = dict(bound.plan.reranks).get(address) if address is not None else None
    return 1 + (candidates(bound.plan, stage, _ASSUMED_CANDIDATES) if stage else 0)


def candidates(plan: Plan, stage: Rerank, unknown: int) -> int:
    """Candidates of a stage that reranks; ``unknown`` where a parameter says how many."""
    return unknown if parameters(stage.k.expression) else int(plan.value(stage.k, {}))


def _footprints(bound: Bound) -> dict[int, Footprint]:
    """The costs of the lanes, by their numbers."""
    return {number: lane.footprint() for number, lane in enumerate(bound.lanes)}


def _parts(bound: Bound) -> dict[torch.device, dict[int, Footprint]]:
    """The same on each device that they run or lie on; shapes alone, on the default device."""
    parts: dict[torch.device, dict[int, Footprint]] = {}
    for number, footprint in _footprints(bound).items():
        device = bound.lanes[number].device
        if device.type == "meta":
            parts.setdefault(torch.device(bound.device), {})[number] = footprint
            continue
        held = (each.device for each in footprint.memory.values())
        for each in dict.fromkeys((device, *footprint.layers, *held)):
            parts.setdefault(each, {})[number] = footprint.on(each)
    return parts


def held_bytes(footprints: Mapping[int, Footprint]) -> int:
    """Bytes of the lanes' weights, each object once."""
    memory = {key: held for each in footprints.values() for key, held in each.memory.items()}
    return sum(held.size for held in memory.values())


def _token_bytes(bound: Bound, footprints: Mapping[int, Footprint]) -> int:
    """Bytes of cache that one token of one request takes, in all rows of these lanes."""
    return sum(each.token_bytes * _rows_per_request(bound, i) for i, each in footprints.items())


def _row_bytes(bound: Bound, footprints: Mapping[int, Footprint]) -> int:
    """Bytes of cache that one request takes whatever its length, in all rows of these lanes.

    Twice the states, where drafts or a search have them saved to go back to.
    """
    return saved_times(bound) * sum(
        each.row_bytes * _rows_per_request(bound, i) for i, each in footprints.items()
    )


def saved_times(bound: Bound) -> int:
    """How many copies of its states a row holds: 2 where texts are cut back, else 1."""
    return 2 if bound.draft_lanes or bound.plan.search else 1


def _scratch(bound: Bound, footprints: Mapping[int, Footprint]) -> int:
    """Bytes of the page that belongs to nobody, of each lane that has pages."""
    paged = [each for number, each in footprints.items() if bound.lanes[number].is_paged]
    return PAGE * sum(each.token_bytes for each in paged)


def _rows_per_request(bound: Bound, number: int) -> int:
    """Rows that one request has in a lane."""
    return sum(bound_term.lane == number for bound_term in bound.all_terms)
