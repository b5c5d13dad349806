"""The benchmark of prefix caching: both ways read what they should, and a difference is seen."""

from __future__ import annotations

import json
import sys

import pytest

from bench import prefix_caching
from descant.models.cache.blocks import store
from descant.models.lanes.transformers_lane import TransformersLane


def test_later_requests_read_their_questions_alone() -> None:
    found = prefix_caching.service(160, 1)
    assert [len(times) for times in found["first_token_ms"].values()] == [2, 2]
    assert found["sooner"] == found["later_ms"]["without"] / found["later_ms"]["with"]


def test_a_chat_reads_each_turn_once() -> None:
    found = prefix_caching.chat(3, 32, 8)
    assert found["read"]["without"] == 32 + 72 + 112
    kept = [0, 32, 72 - 72 % 16]  # of what was read: 39 and 79 tokens, in units
    assert [turn["read"] for turn in found["turns"]["with"]] == [
        tokens - cached for tokens, cached in zip((32, 72, 112), kept, strict=True)
    ]


def test_samples_share_pages_and_a_reading() -> None:
    found = prefix_caching.samples(4, 128, 3)
    for kind in prefix_caching.BACK_ENDS:
        assert found[kind]["samples"]["read"] == 128 and found[kind]["apart"]["read"] == 512
    assert found["side by side"]["times_bytes"] == pytest.approx(1, abs=0.1)
    assert found["pages"]["times_bytes"] == 12 / 6  # each has a page of its own beside two
    assert TransformersLane.page_size is None


def test_shots_are_read_once() -> None:
    found = prefix_caching.shots(3, 128, 16, 1, 1)
    for kind in prefix_caching.BACK_ENDS:
        assert found[kind]["read"] == {"with": 128 + 16 + 17 + 18, "without": 3 * 128 + 51}


def test_what_is_not_shared_is_timed() -> None:
    before = store.BYTES
    found = prefix_caching.unlike(2, 2)
    assert found["usual"]["ratio"] > 0 and len(found["full"]["us"]["with"]) == 40
    assert before == store.BYTES


def test_cases_are_kept_beside_others(monkeypatch, tmp_path, capsys) -> None:
    file = tmp_path / "found.json"
    file.write_text(json.dumps({"results": {"shots": {"shown": "earlier"}}}))
    monkeypatch.setitem(prefix_caching.CASES, "chat", lambda: prefix_caching.chat(2, 16, 2))
    monkeypatch.setattr(sys, "argv", ["prefix_caching", "chat", "--output", str(file)])
    prefix_caching.main()
    content = json.loads(file.read_text())
    assert list(content["results"]) == ["chat", "shots"]
    assert "tokens read, without 50" in capsys.readouterr().out
    assert content["results"]["chat"]["about"]["torch"]
