"""Who gets slots: none is left empty for nothing, nobody starves, and clients get equal shares."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descant.runtime.admission import AHEAD, PATIENCE, QUANTUM, Admission

SLOTS = 8
# Of each: when it comes, its client, its call, its slots and the steps that it takes.
JOBS = st.lists(
    st.tuples(
        st.integers(0, 60), st.integers(0, 3), st.integers(0, 2), st.integers(1, SLOTS),
        st.integers(1, 90),
    ), min_size=1, max_size=40,
)  # fmt: skip


def simulated(jobs, until: int = 20_000):
    """Run jobs to their end; the steps, each with who has slots and who waits after admission."""
    admission: Admission[int] = Admission(SLOTS)
    left, coming = {}, sorted(enumerate(jobs), key=lambda pair: pair[1][0])
    for now in range(until):
        while coming and coming[0][1][0] <= now:
            key, (_, client, call, slots, steps) = coming.pop(0)
            admission.add(key, key, slots, client, call)
            left[key] = steps
        free = SLOTS - sum(entry.slots for entry in admission.running.values())
        for key, entry in admission.making_room(free):
            assert entry.held >= QUANTUM
            admission.wait(key)
            free += entry.slots
        for key, entry in admission.joining(free):
            admission.start(key)
            free -= entry.slots
        assert free >= 0
        yield now, admission, free
        admission.step()
        for key in [*admission.running]:
            left[key] -= 1
            if not left[key]:
                assert not admission.remove(key)
        if not (coming or admission.waiting or admission.running):
            assert not admission._served and not admission._served_calls
            return
    raise AssertionError("somebody has not come to an end")


def came(jobs, client: str) -> int:
    """The step in which a client first has slots."""
    return next(
        now
        for now, admission, _ in simulated(jobs)
        if any(entry.client == client for entry in admission.running.values())
    )


@settings(max_examples=80, deadline=None)
@given(JOBS)
def test_all_come_to_an_end_and_no_slot_is_empty_for_nothing(jobs) -> None:
    for _, admission, free in simulated(jobs):
        reserved = any(entry.passed >= PATIENCE for entry in admission.waiting.values())
        assert reserved or all(entry.slots > free for entry in admission.waiting.values())


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=2, max_size=4))
def test_clients_that_always_ask_are_given_the_same(sizes) -> None:
    """Whatever the slots that their requests take, and however many they send."""
    jobs = [
        (0, client, number, slots, 20)
        for client, own in enumerate(sizes)
        for number in range(600 // sum(own))
        for slots in own
    ]
    given_slots = Counter[int]()
    for now, admission, _ in simulated(jobs):
        if now == 300:
            break
        for entry in admission.running.values():
            given_slots[entry.client] += entry.slots
    bound = AHEAD + SLOTS * (QUANTUM + 20)
    assert max(given_slots.values()) - min(given_slots.values()) <= bound
    assert len(given_slots) == len(sizes)


@pytest.mark.parametrize("large", [(8, 1), (8, 3), (4, 2), (1, 128)])
def test_one_row_comes_soon_whatever_others_hold(large) -> None:
    slots, count = large
    jobs = [(0, "large", n, slots, 100_000 if slots > 1 else 200) for n in range(count)]
    jobs.append((50, "small", 0, 1, 8))
    now = came(jobs, "small")
    assert now <= 50 + QUANTUM


def test_many_slots_come_to_who_waits_for_them_among_many_small_ones() -> None:
    """New clients come all the time, each with a row: none has been given more than the large."""
    jobs = [(step, f"small {step}", 0, 1, 20) for step in range(400)]
    jobs.append((10, "large", 0, SLOTS, 5))
    now = came(jobs, "large")
    assert 10 < now <= 10 + PATIENCE + 2 * QUANTUM


def test_a_call_with_many_rows_lets_one_with_few_in_between() -> None:
    admission: Admission[str] = Admission(2)
    for row in range(10):
        admission.add(row, "many", 1, "one client", 0)
    for key, _ in admission.joining(2):
        admission.start(key)
    admission.add(10, "few", 1, "one client", 1)
    admission.step()
    admission.remove(0)
    assert [entry.item for _, entry in admission.joining(1)] == ["few"]


def test_who_was_idle_has_no_credit_and_no_debt() -> None:
    admission: Admission[str] = Admission(4)
    admission.add(0, "first", 2, "busy", 0)
    admission.start(0)
    for _ in range(100):
        admission.step()
    admission.add(1, "second", 1, "idle", 0)
    assert admission.served("idle") == admission.served("busy") == 200
    admission.charge("idle", 0, 7)
    assert admission.served("idle") == 207 and admission.served("nobody") == 200
