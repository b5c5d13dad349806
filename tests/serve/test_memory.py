"""What a formula held is let go of at once, and not when Python next looks for what is unused."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path
from typing import Any

import pytest

from bench import memory
from descant.api import declared
from descant.models.cache.blocks import store
from descant.models.cache.blocks.paged_cache import PagedCache
from descant.models.cache.kv_cache import RowCache
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime import Service


@pytest.mark.parametrize(("kind", "size", "times"), [(RowCache, 0, 3), (PagedCache, 16, 1)])
def test_caches_that_gave_way_to_larger_ones_are_gone(
    run_file, monkeypatch, kind, size, times
) -> None:
    """Pages are made once, for all formulas."""
    monkeypatch.setattr(TransformersLane, "page_size", size)
    gc.collect()
    gc.disable()
    made: list[weakref.ref[Any]] = []
    first = kind.__init__

    def watched(cache: Any, *arguments: Any) -> None:
        first(cache, *arguments)
        made.append(weakref.ref(cache))

    try:
        kind.__init__ = watched
        service = Service(declared(run_file.models), slots=2, max_model_len=64)
        for weight in (2, 3, 4):  # each with its slots, so that the caches are made anew
            decoder = service.decoder(f"base + {weight}*arm_help")
            service.submit(decoder, "x", max_new_tokens=1)
            while service.busy:
                service.step()
        assert len(made) >= times and (size == 0 or len(made) == times)
        assert sum(cache() is not None for cache in made) == 1
    finally:
        kind.__init__ = first
        gc.enable()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_copies_of_what_was_read_take_no_more_than_their_limit(run_file, monkeypatch) -> None:
    monkeypatch.setattr(store, "BYTES", 4 << 20)
    service = Service(declared(run_file.models), slots=4, max_model_len=256)
    decoder = service.decoder("base")
    [lane] = decoder.session.bound.lanes
    draw, kept, resident = random.Random(0), list[int](), list[int]()
    for _ in range(200):
        prompt = [draw.randrange(3, 1000) for _ in range(draw.randint(20, 200))]
        service.submit(decoder, prompt, max_new_tokens=draw.randint(1, 4), eos_token_id=[])
        while service.busy:
            service.step()
        kept.append(lane.lane._store.nbytes)
        resident.append(memory.resident())
    full = next(number for number, size in enumerate(kept) if size == max(kept))
    assert full < 100 and max(kept) <= 4 << 20  # and whatever came later took a place of others
    assert max(resident[full:]) - resident[full] < 16 << 20
