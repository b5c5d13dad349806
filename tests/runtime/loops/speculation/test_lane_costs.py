"""What rounds cost, against their forwards counted one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import descant
from descant.runtime.loops.speculation.draft_length import RoundCosts, best_length
from descant.runtime.loops.speculation.lane_costs import (
    LaneCost,
    draft_costs,
    lanes_of_steps,
    prompt_costs,
    round_costs,
    term_costs,
)

LANES = st.lists(
    st.builds(LaneCost, st.integers(1, 99), st.integers(0, 99)), min_size=1, max_size=4
)


@given(LANES, st.sets(st.integers(0, 3)), LANES, st.sampled_from([0, 1, 7.5]), st.integers(1, 9))
def test_a_round_is_its_forwards(lanes, numbers, more, speed, rows) -> None:
    drafting = {number for number in numbers if number < len(lanes)}
    others = more if not drafting else []
    costs = round_costs(lanes, drafting, others, speed, rows)
    for length in range(costs.longest + 1):
        forwards = [(lane, 1) for lane in others for _ in range(length)]
        for number, lane in enumerate(lanes):
            own = number in drafting
            forwards += [(lane, 1)] * (length + 1) if own else [(lane, length + 1)]
        total = sum(
            max(lane.weight_bytes, rows * positions * lane.operations / speed if speed else 0)
            for lane, positions in forwards
        )
        assert costs.cost(length) == pytest.approx(total)
    assert costs.relative(0) == 1


def test_a_weak_model_beside_a_strong_one() -> None:
    strong, weak = LaneCost(70), LaneCost(14)
    assert round_costs([strong, weak], {1}, longest=2) == RoundCosts(84, 14, (84, 84, 84))
    assert round_costs([strong, weak], (), [weak], longest=1) == RoundCosts(84, 14, (84, 84))
    assert round_costs([strong, weak], longest=1) == RoundCosts(84, 0, (84, 84))


def test_many_rows_compute_longer_than_they_read() -> None:
    lane, speed = LaneCost(100, 50), 10
    lengths = [best_length(0.9, round_costs([lane] * 3, {0}, (), speed, rows)) for rows in (1, 8)]
    assert lengths[0] > lengths[1]


V = 8
TABLES = {
    **{n: descant.TableModel.random(V, seed=i) for i, n in enumerate(("base", "arm", "weak"))},
    "rm": descant.RuleReward.random(V, seed=3),
}


def bound(formula: str):
    return descant.compile(formula, TABLES, device="cpu").session.bound


def test_a_term_per_lane_may_draft() -> None:
    formula = "weak + 0.5*base@none + base - arm | rerank(rm, k=4)"
    costs = term_costs(bound(formula))
    assert [str(term.term) for term, _ in costs] == ["weak", "base@none", "arm"]
    step = 4 * 4 * V * V
    assert {each.step for _, each in costs} == {step}
    assert {each.draft for _, each in costs} == {step / 4}


def test_a_term_that_some_steps_do_not_read_drafts_nothing() -> None:
    costs = term_costs(bound("where(step < 2, base, weak) + arm"))
    assert [str(term.term) for term, _ in costs] == ["arm"]


@pytest.mark.parametrize(
    ("draft", "lanes", "outside"),
    [("base", 1, 0), ("base + 0.5*arm", 2, 0), ("weak", 0, 1), ("base - weak", 1, 1)],
)
def test_a_draft_plan_runs_its_own_lanes(draft, lanes, outside) -> None:
    decoder = descant.compile("base + arm", TABLES, device="cpu")
    decoder.generate([[1]], max_new_tokens=2, draft=draft)
    [_, session] = decoder._sessions.values()
    with_draft = session.bound
    one, step = 4 * V * V, 2 * 4 * V * V
    assert len(lanes_of_steps(with_draft)) == 2
    costs = draft_costs(with_draft, with_draft.draft_plans[0])
    assert (costs.step, costs.draft) == (step, (lanes + outside) * one)
    assert costs.cost(3) == step + 3 * (lanes + outside) * one


def test_rewards_of_a_search_run_in_no_step() -> None:
    searching, reranking = bound("base | best_of(rm, n=2)"), bound("base | rerank(rm, k=2)")
    assert len(lanes_of_steps(searching)) == 1 and len(lanes_of_steps(reranking)) == 2
    assert prompt_costs(reranking).step == 2 * prompt_costs(searching).step
    assert prompt_costs(reranking).draft == 0
