"""What the host writes of a batch, on a device with memory of its own: a CPU is made one here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from descant.models.upload import Mirror, upload
from descant.runtime.batch import changes
from descant.runtime.batch.batch import Batch
from descant.runtime.batch.slot_state import SlotState, Start
from descant.runtime.requests.request import Request
from descant.runtime.scores.token_tables import COUNTS, SEEN, add_drawn

SLOTS, VOCABULARY = 5, 7
FORMULAS = [
    "base + a*lora4 - 0.3*base@none",
    "base | repetition_penalty(1.5) | top_k(50)",
    "base + a*arm | rerank(rm, k=4, w=1.5)",
    "where(step < 3, base, arm)",
    "base + a*arm | blockwise(arm - base, beams=2, samples=2, length=4)",
    "base | repetition_penalty(1.5) | frequency_penalty(0.9) "
    "| blockwise(rm, beams=2, samples=2, length=4)",
    "base | reject(arm - base, target=1, entropy=3, beta=0.1, retries=2)",
]


@pytest.fixture
def own_memory(monkeypatch):
    """Call it, and what is made afterwards has the device's memory apart from the host's."""
    return lambda: monkeypatch.setattr(Mirror, "on_host", lambda device: False)


def generated(compiled: Any, formula: str) -> list[list[int]]:
    """More prompts than slots, which come and go."""
    params = {"a": 0.5} if "a*" in formula else {}
    decoder = compiled(formula, params=params)
    prompts = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13], [1, 9, 9], [1, 60], [1, 2, 3]]
    found = decoder.generate(
        prompts, max_new_tokens=11, temperature=1.0, seed=[*range(6)], batch_size=3,
        eos_token_id=list(range(0, 300, 13)),
    )  # fmt: skip
    return [one.token_ids for one in found]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_device_with_its_own_memory_draws_the_same(compiled, own_memory, formula) -> None:
    expected = generated(compiled, formula)
    own_memory()
    assert generated(compiled, formula) == expected


@pytest.mark.parametrize(("formula", "kept"), [(FORMULAS[1], 1), (FORMULAS[3], 0)])
def test_what_is_not_uploaded_shows(compiled, own_memory, monkeypatch, formula, kept) -> None:
    """The tokens that a text has seen; and everything."""
    expected = generated(compiled, formula)
    own_memory()
    monkeypatch.setattr(changes, "upload", lambda pairs: upload(pairs[:kept]))
    assert generated(compiled, formula) != expected


def test_steps_that_the_host_does_not_count_show(compiled, own_memory, monkeypatch) -> None:
    expected = generated(compiled, FORMULAS[0])
    own_memory()
    uncounted = property(lambda self: 0, lambda self, count: None)
    monkeypatch.setattr(SlotState, "taken", uncounted, raising=False)
    assert generated(compiled, FORMULAS[0]) != expected


@pytest.mark.parametrize("own", [False, True])
def test_without_a_change_nothing_is_copied(compiled, own_memory, own) -> None:
    if own:
        own_memory()
    decoder = compiled("base + 0.5*lora4")
    engine, build = decoder.session.engine, decoder.session.builder.requests
    batch = engine.begin(build([[1, 5]], max_new_tokens=4), 2)
    assert isinstance(batch, Batch) and batch.mirrored == own
    batch.admit(build([[1, 5]], max_new_tokens=4))
    batch.read()
    assert batch.stale and len(batch.changes()) == own and not batch.stale
    assert batch.changes() == []
    batch.finish([0])
    assert batch.stale


@dataclass
class Expected:
    """One slot, as anybody would keep it."""

    request: Request
    key: tuple[int, int]
    steps: int
    score: float
    seen: Counter[int]


def start(score: int, tokens: list[int]) -> Start:
    return Start([float(score)], {SEEN: dict.fromkeys(tokens, 1), COUNTS: Counter(tokens)})


def request(number: int) -> Request:
    return Request(number, None, [], {}, [number / 2], {}, number / 4, (number, 9), 1, frozenset())


STARTS = st.tuples(st.integers(0, 9), st.lists(st.integers(0, VOCABULARY - 1), max_size=9))
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("join"), STARTS),
        st.tuples(st.just("leave"), st.integers(0, SLOTS - 1)),
        st.tuples(st.just("copy"), st.lists(st.integers(0, SLOTS - 1), min_size=SLOTS)),
        st.tuples(st.just("rewrite"), st.tuples(st.integers(0, SLOTS - 1), STARTS)),
        st.tuples(st.just("go on"), st.lists(st.integers(0, 3), min_size=SLOTS)),
        st.tuples(st.just("step"), st.integers(0, VOCABULARY - 1)),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(CHANGES, st.booleans())
def test_slots_are_what_their_changes_say(made, own) -> None:
    """Whatever changes between two steps, and in whatever order."""
    with pytest.MonkeyPatch.context() as patch:
        if own:
            patch.setattr(Mirror, "on_host", lambda device: False)
        state = SlotState(torch.device("cpu"), SLOTS, 1, 0, 0, VOCABULARY, 1, (SEEN, COUNTS))
        expected: list[Expected] = []
        for number, (what, details) in enumerate([*made, ("step", 0)]):
            change(state, expected, number, what, details)
            if what == "step":
                compare(state, expected)


def change(state: SlotState, slots: list[Expected], number: int, what: str, details: Any) -> None:
    """Make a change, if there are slots for it."""
    if what == "join" and len(slots) < SLOTS:
        (score, seen), own = details, request(number)
        state.join(own.key, start(score, seen))
        slots.append(Expected(own, own.key, 0, score, Counter(seen)))
    elif what == "leave" and details < len(slots):
        state.leave(details)
        slots[details] = slots[-1]
        slots.pop()
    elif what == "copy" and slots:
        sources = [source % len(slots) for source in details[: len(slots)]]
        state.copy(sources)
        before = [(slots[i].steps, slots[i].score, Counter(slots[i].seen)) for i in sources]
        for slot, copied in zip(slots, before, strict=True):
            slot.steps, slot.score, slot.seen = copied
    elif what == "rewrite" and details[0] < len(slots):
        slot, (score, seen) = details
        state.rewrite(slot, (number, 8), len(seen), start(score, seen))
        slots[slot] = Expected(slots[slot].request, (number, 8), len(seen), score, Counter(seen))
    elif what == "go on":
        state.go_on(details[: len(slots)])
        for slot, count in zip(slots, details, strict=False):
            slot.steps += count
    elif what == "step":
        upload(state.changes([slot.request for slot in slots]))
        state.move()
        take(state, slots, details)


def take(state: SlotState, slots: list[Expected], token: int) -> None:
    """A step: the device counts, and the host as well."""
    assert state.search_scores is not None
    state.mirror.device.steps.add_(1)
    state.taken += 1
    add_drawn(state.tables, torch.full((SLOTS,), token))
    state.search_scores += token
    for slot in slots:
        slot.steps, slot.score = slot.steps + 1, slot.score + token
        slot.seen[token] += 1


def compare(state: SlotState, slots: list[Expected]) -> None:
    assert state.search_scores is not None
    device, count = state.mirror.device, len(slots)
    assert device.values[:count, 0].tolist() == [slot.request.values[0] for slot in slots]
    assert device.temperatures[:count].tolist() == [slot.request.temperature for slot in slots]
    assert [*map(tuple, device.keys[:count].tolist())] == [slot.key for slot in slots]
    assert device.steps[:count].tolist() == [slot.steps for slot in slots]
    assert state.search_scores[:count].tolist() == [[slot.score] for slot in slots]
    counts = [[slot.seen[token] for token in range(VOCABULARY)] for slot in slots]
    assert state.tables[COUNTS][:count].tolist() == counts
    assert state.tables[SEEN][:count].tolist() == [[each > 0 for each in row] for row in counts]
