"""What rows with states have read is found again: whole texts, and where texts part."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from chain_lane import combination, logits_of, said
from state_chain_lane import StateChainLane

from descant.models.cache.blocks import state_store
from descant.models.lanes import prefill

SYSTEM = [1 + i % 4 for i in range(90)]


@pytest.fixture
def lane() -> StateChainLane:
    made = StateChainLane(shares=True, reads_all=False, by_token=False, language=True)
    made.reserve(8, 256)
    return made


def admitted(lane: StateChainLane, prompts: Sequence[Sequence[int]], added: int = 0) -> list[int]:
    """How many tokens of each prompt were found; what the lane says of each is right."""
    reading = lane.admit(prompts, [combination(added)] * len(prompts))
    read = 0
    while True:
        try:
            read += next(reading)
        except StopIteration as end:
            rows = end.value()
            break
    logits = lane.logits()
    for row, prompt in zip(rows, prompts, strict=True):
        assert torch.equal(logits[row], logits_of(said(added, prompt)))
    cached = [lane.cached_tokens(row) for row in rows]
    assert read == sum(map(len, prompts)) - sum(cached)
    return cached


def test_a_prompt_that_was_read_is_not_read_again(lane: StateChainLane) -> None:
    assert admitted(lane, [SYSTEM]) == [0]
    assert admitted(lane, [SYSTEM]) == [90] and lane.ready
    assert admitted(lane, [SYSTEM], added=1) == [0], "another adapter reads it anew"
    assert admitted(lane, [SYSTEM[:70]]) == [0], "nothing can be taken out of a state"


def test_prompts_that_come_together_share_how_they_begin(lane: StateChainLane) -> None:
    assert admitted(lane, [[*SYSTEM, 2, 2], [*SYSTEM, 3, 3, 3], [*SYSTEM, 4]]) == [
        90,
        0,
        90,
    ]  # the longest first


def test_where_texts_part_is_known_from_the_third_on(lane: StateChainLane) -> None:
    found = [admitted(lane, [[*SYSTEM, *tail]])[0] for tail in ([2] * 5, [3] * 9, [4, 4])]
    assert found == [0, 0, 90]


def test_a_conversation_goes_on_from_its_last_answer(lane: StateChainLane) -> None:
    admitted(lane, [SYSTEM])
    for token in (2, 3, 1):
        lane.feed(torch.tensor([token]))
        lane.logits()
    text = [*SYSTEM, 2, 3, 1]
    lane.release(0, text)
    assert admitted(lane, [[*text, 4, 4]]) == [93]


def test_the_budget_is_kept(lane: StateChainLane, monkeypatch: pytest.MonkeyPatch) -> None:
    admitted(lane, [[1, 2, 3]])
    one = lane._store.nbytes
    monkeypatch.setattr(state_store, "STATE_BYTES", int(2.5 * one))
    admitted(lane, [[2, 2, 3]])
    admitted(lane, [[3, 2, 3]])
    assert lane._store.nbytes <= 2.5 * one
    assert [admitted(lane, [[n, 2, 3]])[0] for n in (3, 2, 1)] == [3, 3, 0]
    lane.forget_prefixes()
    assert lane._store.nbytes == 0 and admitted(lane, [[3, 2, 3]]) == [0]


def test_few_texts_are_kept(lane: StateChainLane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_store, "TEXTS", 2)
    for number in (1, 2, 3):
        admitted(lane, [[number, 2, 3]])
    assert [admitted(lane, [[number, 2, 3]])[0] for number in (3, 2, 1)] == [3, 3, 0]


def test_nothing_is_shared_where_a_model_cannot_go_on_with_several_tokens() -> None:
    lane = StateChainLane(shares=True, reads_all=False, by_token=True, language=True)
    lane.reserve(4, 256)
    assert admitted(lane, [SYSTEM, [*SYSTEM, 2]]) == [0, 0]
    assert lane.kept_bytes == 0 and prefill.CHUNK > 0
