"""Lengths of drafts: the best by the expected number of tokens, and as acceptance changes."""

from __future__ import annotations

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descant.runtime.loops.speculation.draft_length import (
    LONGEST,
    START,
    Acceptance,
    AdaptiveLength,
    RoundCosts,
    batch_length,
    best_length,
    expected_tokens,
)

RATES = st.floats(0, 1)
COSTS = st.builds(
    RoundCosts,
    step=st.floats(0.5, 2),
    draft=st.floats(0, 1),
    verify=st.lists(st.floats(0.5, 3), min_size=LONGEST + 1, max_size=LONGEST + 1).map(tuple),
)
FREE = RoundCosts(1, 0, (1,) * (LONGEST + 1))
THIRD = RoundCosts(3, 1, (3,) * (LONGEST + 1))  # one of three equal models drafts
DEAR = RoundCosts(1, 1, (1,) * (LONGEST + 1))


def kept(rate: float, length: int, choose: random.Random) -> int:
    """How many of so many drafted tokens are accepted."""
    return next((i for i in range(length) if choose.random() >= rate), length)


@given(RATES, st.integers(0, LONGEST))
def test_expected_tokens_are_the_chances_of_coming_so_far(rate, length) -> None:
    assert expected_tokens(rate, length) == pytest.approx(sum(rate**i for i in range(length + 1)))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_expected_tokens_are_those_of_rounds(rate) -> None:
    choose = random.Random(1)
    tokens = mean(kept(rate, 5, choose) + 1 for _ in range(20_000))
    assert tokens == pytest.approx(expected_tokens(rate, 5), rel=0.02)


@given(RATES, COSTS, st.integers(0, LONGEST))
def test_the_best_length_is_no_worse_than_another(rate, costs, most) -> None:
    def value(length: int) -> float:
        return expected_tokens(rate, length) / costs.cost(length)

    best = best_length(rate, costs, most)
    assert 0 <= best <= most
    assert value(best) == max(value(length) for length in range(most + 1))


@pytest.mark.parametrize(
    ("rate", "costs", "length"),
    [(0.9, THIRD, 5), (0.5, THIRD, 1), (0.2, THIRD, 0), (0.9, DEAR, 0), (1, FREE, 8), (0, FREE, 0)],
)
def test_best_lengths(rate, costs, length) -> None:
    assert best_length(rate, costs) == length


@given(st.lists(st.tuples(RATES, st.integers(0, LONGEST)), min_size=1, max_size=5), COSTS)
def test_a_batch_has_one_length_and_caps(rows, costs) -> None:
    rates, caps = zip(*rows, strict=True)

    def value(length: int) -> float:
        tokens = [expected_tokens(rate, min(length, cap)) for rate, cap in rows]
        return sum(tokens) / costs.cost(length)

    best = batch_length(rates, caps, costs)
    assert value(best) == max(value(length) for length in range(max(caps) + 1))


def test_rows_that_may_draft_more_pull_the_length() -> None:
    assert batch_length([0.9, 0.9], [8, 0], THIRD) < batch_length([0.9, 0.9], [8, 8], THIRD)
    assert batch_length([0.9], [2], THIRD) == 2
    assert batch_length([], [], THIRD) == 0


def test_a_rejection_ends_what_is_tested() -> None:
    acceptance = Acceptance()
    for drafted, accepted, tested, total in (
        (4, 4, 4, 4),
        (4, 2, 7, 6),
        (4, 0, 8, 6),
        (0, 0, 8, 6),
    ):
        acceptance.observe(drafted, accepted)
        assert (acceptance.tested, acceptance.accepted) == (tested, total)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=30))
def test_a_rate_is_a_probability(rounds) -> None:
    acceptance = Acceptance()
    for drafted, accepted in rounds:
        acceptance.observe(drafted, min(drafted, accepted))
        assert 0 < acceptance.rate < 1
        assert 1 <= acceptance.longest <= LONGEST


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8, 0.95])
def test_the_rate_follows_rounds_of_any_length(rate) -> None:
    choose, found = random.Random(2), []
    acceptance = Acceptance()
    for number in range(2000):
        length = choose.randint(1, 8)
        acceptance.observe(length, kept(rate, length, choose))
        if number > 200:
            found.append(acceptance.rate)
    assert mean(found) == pytest.approx(rate, abs=0.03)


def test_a_text_that_becomes_harder_is_noticed() -> None:
    acceptance, choose = Acceptance(), random.Random(3)
    for _ in range(100):
        acceptance.observe(4, kept(0.95, 4, choose))
    assert acceptance.rate > 0.85
    for _ in range(60):
        acceptance.observe(4, kept(0.2, 4, choose))
    assert acceptance.rate < 0.45


def test_one_unlucky_draft_changes_little() -> None:
    acceptance = Acceptance()
    for _ in range(10):
        acceptance.observe(4, 4)
    before = acceptance.rate
    acceptance.observe(4, 0)
    assert before - acceptance.rate < 0.05


def test_lengths_begin_short_and_grow_and_shrink() -> None:
    adaptive, request = AdaptiveLength(), Acceptance()
    assert adaptive.lengths([request], [100], FREE) == [START]
    request.observe(4, 3)
    assert adaptive.lengths([request], [100], FREE) == [START]
    for _ in range(20):
        request.observe(4, 4)
    assert adaptive.lengths([request], [100], FREE) == [LONGEST]
    assert adaptive.lengths([request], [3], FREE) == [3]
    assert adaptive.lengths([request], [0], FREE) == [0]
    for _ in range(40):
        request.observe(4, 0)
    [length] = adaptive.lengths([request], [100], FREE)
    assert 1 <= length <= 2
    assert adaptive.lengths([request], [100], THIRD) == [0]


def test_each_request_has_its_own_length() -> None:
    easy, hard = Acceptance(), Acceptance()
    for _ in range(40):
        easy.observe(4, 4)
        hard.observe(4, 0)
    assert AdaptiveLength().lengths([easy, hard], [100, 100], FREE) == [LONGEST, 1]


def test_what_does_not_pay_is_tried_ever_more_seldom() -> None:
    adaptive, request = AdaptiveLength(), Acceptance()
    for _ in range(100):
        request.observe(4, 0)
    tried = []
    for step in range(1000):
        [length] = adaptive.lengths([request], [100], THIRD)
        if length:
            request.observe(length, 0)
            tried.append(step)
    assert tried == [16, 49, 114, 243, 500]


def test_what_comes_to_pay_is_found() -> None:
    adaptive, request, choose = AdaptiveLength(), Acceptance(), random.Random(4)
    for _ in range(100):
        request.observe(4, 0)
    drafted = []
    for _ in range(600):
        [length] = adaptive.lengths([request], [100], THIRD)
        request.observe(length, kept(0.97, length, choose))
        drafted.append(length)
    assert mean(drafted[:16]) == 0
    assert mean(drafted[-100:]) > 5
