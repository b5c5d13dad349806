"""Texts, lengths and tables of rows, on a device with its own memory and on the host's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from combined import of_slot

from descant.models.cache.rows import Rows
from descant.models.combinations import BARE
from descant.models.upload import Mirror

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["host", "apart"])
def apart(request: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        monkeypatch.setattr(Mirror, "on_host", lambda device: False)
    return request.param


@pytest.fixture
def rows(apart: bool) -> Rows:
    made = Rows(4, 12, CPU, pages=3, bucketed=True)
    made.flush()
    return made


def on_device(rows: Rows) -> list[tuple[list[int], int, int]]:
    """Text, cached tokens and adapter of each row, as a step reads them."""
    used = range(rows.count)
    ends, places = rows.ends.tolist(), rows.places.tolist()
    texts = [rows.texts[places[row], : ends[row]].tolist() for row in used]
    return [(texts[row], rows.lengths[row].item(), rows.adapters[row].item()) for row in used]


def test_rows_come_go_and_keep_their_places(rows) -> None:
    rows.admit([[1, 2], [3], [4, 5, 6]], [1, 0, 2], [BARE, of_slot(2), of_slot(1)])
    places = [*rows._places]
    assert len({*places}) == 3
    assert rows.release(0) == 2
    rows.flush()
    assert on_device(rows) == [([4, 5, 6], 2, 1), ([3], 0, 2)]
    assert rows._places == [places[2], places[1]], "no text has moved"
    rows.admit([[7, 8]], [1], [BARE])
    rows.flush()
    assert rows._places[2] not in rows._places[:2]
    assert on_device(rows)[2] == ([7, 8], 1, 0) and rows.active.tolist() == [1, 1, 1, 0, 0]
    idle = slice(3, 5)
    assert rows.ends[idle].tolist() == [1, 1] and rows.lengths[idle].tolist() == [0, 0]
    assert rows.places[idle].tolist() == [4, 4]


def test_the_device_knows_when_it_is_told(rows, apart) -> None:
    rows.admit([[1, 2]], [1], [BARE])
    rows.set_pages(0, [2, 1])
    assert rows.stale and rows.tables[0].tolist() == ([0, 0, 0] if apart else [2, 1, 0])
    assert len(rows.changes()) == (2 if apart else 0) and not rows.stale
    assert rows.changes() == []


def test_a_place_that_is_taken_again_before_the_first_text_was_sent(rows) -> None:
    rows.admit([[1] * 10], [9], [BARE])
    rows.release(0)
    rows.admit([[2, 3]], [1], [BARE])
    rows.rewrite({0: (1, [4, 5])})
    rows.rewrite({0: (2, [6])})
    rows.flush()
    assert on_device(rows) == [([2, 4, 6], 1, 0)] and rows.all_texts() == [[2, 4, 6]]


def test_tables_move_with_their_rows(rows) -> None:
    rows.admit([[1], [2], [3]], [0, 0, 0], [BARE, BARE, BARE])
    for row, pages in enumerate(([1], [2, 3], [4, 5, 6])):
        rows.set_pages(row, pages)
    rows.set_pages(2, [6])
    rows.release(0)
    rows.flush()
    assert rows.tables.tolist() == [[6, 0, 0], [2, 3, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    rows.clear()
    rows.flush()
    assert not rows.tables.any() and rows.count == rows.total == 0


def test_room_for_more_keeps_what_there_is(rows) -> None:
    rows.admit([[1, 2], [3, 4, 5]], [2, 0], [of_slot(1), BARE])
    rows.set_pages(1, [5, 4])
    rows.grow(20, 6, 5)
    rows.flush()
    assert on_device(rows) == [([1, 2], 2, 1), ([3, 4, 5], 0, 0)]
    assert rows.tables.shape == (7, 5) and rows.tables[1].tolist() == [5, 4, 0, 0, 0]
    assert (rows.most, rows.capacity, rows.pages) == (6, 20, 5)
    rows.admit([[token] * 20 for token in range(4)], [0] * 4, [BARE] * 4)
    assert len({*rows._places}) == 6 and rows.all_texts()[2:] == [[t] * 20 for t in range(4)]
    rows.grow(10)
    assert rows.capacity == 20, "it never shrinks"


def test_a_step_on_the_device_goes_on_from_what_the_host_wrote(rows) -> None:
    rows.admit([[1, 2], [3]], [1, 0], [BARE, BARE])
    tokens, positions = rows.unread(1)
    assert tokens[:2].tolist() == [[2], [3]] and positions[:2].tolist() == [[1], [0]]
    rows.mark_cached()
    rows.feed(torch.tensor([8, 9]))
    rows.feed_rows(torch.tensor([7, 7]), torch.tensor([1, 4]), [1])
    assert rows.counts() == ([2, 1], [3, 3]) and rows.backlog == 1 and rows.total == 6
    assert rows.all_texts() == [[1, 2, 8], [3, 9, 7]] and rows.ends[4] == 1
    assert rows.last_tokens()[:2].tolist() == [8, 7]


def test_copies_and_permutations(rows) -> None:
    rows.admit([[1], [2, 2], [3, 3, 3]], [0, 1, 2], [BARE, of_slot(1), of_slot(2)])
    rows.copy([1, 2, 1], [0, 1, 2])
    rows.flush()
    assert on_device(rows) == [([2, 2], 1, 1), ([3, 3, 3], 2, 2), ([2, 2], 1, 1)]


def test_what_is_shorter_is_not_longer_again(rows) -> None:
    rows.admit([[1, 2, 3]], [2], [BARE])
    version = rows.version
    rows.shorten(0, 2)
    assert rows.version == version
    rows.shorten(0, 1)
    assert rows.version > version and rows.counts()[0] == [1]
    rows.flush()
    assert rows.lengths[0] == 1


def test_there_is_no_room_for_more_rows_than_there_are(rows) -> None:
    with pytest.raises(ValueError):
        rows.admit([[1]] * 5, [0] * 5, [BARE] * 5)
