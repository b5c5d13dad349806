"""How many tokens of prompts were read, and how many of them were there already."""

from __future__ import annotations

from ..requests.request import length_of
from .batch import Batch
from .cost import RunStats


def count_prompts(batch: Batch, slot: int, stats: RunStats) -> int:
    """Count the prompts of a slot, in all its rows; the cached tokens of the longest term's."""
    request, cached_of_terms = batch.requests[slot], dict[int, int]()
    for row_map in batch.row_maps:
        row, prompt = row_map.held[slot], row_map.prompt(request)
        if row is not None and (length := length_of(prompt)):
            cached = batch.bound.lanes[row_map.term.lane].cached_tokens(row)
            stats.add_prompts(length, cached)
            if row_map.term.address is None and not row_map.only_draft:
                cached_of_terms[row_map.number] = cached
    longest = max(cached_of_terms, key=lambda term: len(request.prompts[term]), default=None)
    return 0 if longest is None else cached_of_terms[longest]
