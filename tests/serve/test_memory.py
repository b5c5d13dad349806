"""What a formula held is let go of at once, and not when Python next looks for what is unused."""

from __future__ import annotations

import gc
import weakref

from descant.api import declared
from descant.models.cache.kv_cache import RowCache
from descant.runtime import Service


def test_caches_that_gave_way_to_larger_ones_are_gone(run_file) -> None:
    gc.collect()
    gc.disable()
    made: list[weakref.ref[RowCache]] = []
    first = RowCache.__init__

    def watched(cache: RowCache, *sizes: int) -> None:
        first(cache, *sizes)
        made.append(weakref.ref(cache))

    try:
        RowCache.__init__ = watched
        service = Service(declared(run_file.models), slots=2, max_model_len=64)
        for weight in (2, 3, 4):  # each with its slots, so that the caches are made anew
            decoder = service.decoder(f"base + {weight}*arm_help")
            service.submit(decoder, "x", max_new_tokens=1)
            while service.busy:
                service.step()
        assert len(made) >= 3
        assert sum(cache() is not None for cache in made) == 1
    finally:
        RowCache.__init__ = first
        gc.enable()
