"""What is copied out of rows and in again: the same numbers, as much as there is room for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from chain_lane import SHAPES, ChainLane, combination, expected
from ledger import check_store, check_tree

from descant.models.cache.blocks import store as stores
from descant.models.cache.blocks.store import PAGE, PrefixStore
from descant.models.cache.kv_cache import RowCache

PAGE_BYTES = PAGE * sum(shape.numbers for shape in SHAPES) * 8
TEXT = [1 + i % 5 for i in range(300)]


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it with how many pages may be kept."""
    return lambda pages: monkeypatch.setattr(stores, "BYTES", int(pages * PAGE_BYTES))


def cache_of(*texts: Sequence[int]) -> RowCache:
    """A cache whose rows have read texts."""
    cache = RowCache(4, 320)
    cache.make_layers(dict(enumerate(SHAPES)), torch.empty(0, dtype=torch.float64))
    for row, text in enumerate(texts):
        for layer, (keys, values) in zip(cache.layers, expected(0, text), strict=True):
            layer.keys[row, :, : len(text)], layer.values[row, :, : len(text)] = keys, values
    return cache


def loaded(store: PrefixStore, text: Sequence[int]) -> int:
    """How much of a text a store has; it is what the text says, and the rest of a row is left."""
    cache = RowCache(4, 320)
    found = store.load(0, text, cache, 2)
    assert found == store.find(0, text) and cache.written == ((3, found) if found else (0, 0))
    for layer, (keys, values) in zip(cache.layers, expected(0, text[:found]), strict=False):
        for tensor, wanted in ((layer.keys, keys), (layer.values, values)):
            assert torch.equal(tensor[2, :, :found], wanted)
            assert not tensor[:2].any() and not tensor[3:].any() and not tensor[2, :, found:].any()
    check_tree(store._tree, Counter())
    return found


@pytest.mark.parametrize("length", [1, 15, 16, 63, 64, 65, 80, 200, 300])
def test_what_is_loaded_is_what_was_saved(length) -> None:
    store = PrefixStore()
    store.save(0, TEXT[:length], cache_of(TEXT), 0)
    assert loaded(store, TEXT) == length - length % 16
    assert store.nbytes == -(-(length - length % 16) // PAGE) * PAGE_BYTES


def test_a_cache_without_layers_has_nothing_to_keep() -> None:
    store = PrefixStore()
    store.save(0, TEXT, RowCache(4, 320), 0)
    assert not store.nbytes and loaded(store, TEXT) == 0


def test_a_text_that_goes_on_is_appended_in_its_page() -> None:
    store, cache = PrefixStore(), cache_of(TEXT)
    store.save(0, TEXT[:80], cache, 0)
    pages = store._tree.find(0, TEXT).pages
    for layer in cache.layers:
        layer.keys[0, :, :80] = layer.values[0, :, :80] = torch.nan  # it is not copied again
    store.save(0, TEXT[:128], cache, 0)
    assert store._tree.find(0, TEXT).pages == pages and loaded(store, TEXT) == 128


def test_texts_that_part_in_a_page_have_a_copy_each() -> None:
    store, parted = PrefixStore(), [*TEXT[:96], *[4] * 100]
    cache = cache_of(TEXT, parted)
    store.save(0, TEXT, cache, 0)
    store.save(0, parted, cache, 1)
    assert (loaded(store, TEXT), loaded(store, parted)) == (288, 192)
    assert len(store._pages) == 5 + 2
    store.save(0, parted[:96], cache, 1)
    assert len(store._pages) == 5 + 2, "all of it is known"


def test_the_budget_is_kept_and_the_least_recently_used_goes(budget) -> None:
    budget(3)
    store, others = PrefixStore(), [[1 + token, *TEXT[:99]] for token in (1, 2, 3)]
    cache = cache_of(*others)
    store.save(0, others[0], cache, 0)
    store.save(0, others[1][:64], cache, 1)
    assert loaded(store, others[0]) == 96  # it is used again
    store.save(0, others[2][:64], cache, 2)
    assert [loaded(store, text) for text in others] == [96, 0, 64]
    assert store.nbytes == 3 * PAGE_BYTES


def test_of_a_text_that_is_too_long_the_beginning_is_kept(budget) -> None:
    budget(2)
    store = PrefixStore()
    store.save(0, TEXT, cache_of(TEXT), 0)
    assert loaded(store, TEXT) == 128 and store.nbytes == 2 * PAGE_BYTES


def test_a_text_that_goes_on_does_not_take_its_own_pages(budget) -> None:
    budget(2)
    store, cache = PrefixStore(), cache_of(TEXT)
    store.save(0, TEXT[:80], cache, 0)
    store.save(0, TEXT[:192], cache, 0)
    assert loaded(store, TEXT) == 128


@pytest.mark.parametrize("pages", [0, 0.5])
def test_no_room_keeps_nothing(budget, pages) -> None:
    budget(pages)
    store = PrefixStore()
    store.save(0, TEXT, cache_of(TEXT), 0)
    assert loaded(store, TEXT) == 0 and not store.nbytes


def test_a_page_that_cannot_be_written_in_may_be_the_one_that_goes(budget) -> None:
    """Two texts part in the only page: the second takes its place."""
    budget(1)
    store, parted = PrefixStore(), [*TEXT[:32], *[4] * 32]
    cache = cache_of(TEXT, parted)
    store.save(0, TEXT[:64], cache, 0)
    store.save(0, parted, cache, 1)
    assert (loaded(store, parted), loaded(store, TEXT)) == (64, 32)


def test_a_store_that_is_cleared_gives_its_memory_back() -> None:
    store = PrefixStore()
    store.save(0, TEXT, cache_of(TEXT), 0)
    store.clear()
    assert not store.nbytes and loaded(store, TEXT) == 0
    store.save(0, TEXT, cache_of(TEXT), 0)
    assert loaded(store, TEXT) == 288


def test_what_was_loaded_and_not_read_survives_a_larger_cache() -> None:
    """A lane that reads all of a text finds all of it, so that no forward runs."""
    lane, text = ChainLane(0, reads_all=True), TEXT[:64]
    for _ in range(2):
        lane.reserve(2, 96)
        for _ in (reading := lane.admit([text], [combination(0)])):
            pass
        del reading
        lane.discard()
    lane.reserve(2, 96)
    reading = lane.admit([text], [combination(0)])
    with pytest.raises(StopIteration) as end:
        next(reading)
    end.value.value()
    assert lane.cached_tokens(0) == 64
    lane.grow(128, 4)
    for pair, wanted in zip(lane.held(0, 64), expected(0, text), strict=True):
        assert torch.equal(pair[0], wanted[0]) and torch.equal(pair[1], wanted[1])
    check_store(lane, of_chains=True)
