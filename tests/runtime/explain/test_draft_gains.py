"""What a plan says of drafts, before a run and after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import descant
from descant.bench import shapes
from descant.runtime.batch.cost import RunStats
from descant.runtime.explain.draft_gains import DraftGain
from descant.runtime.loops.speculation.draft_length import expected_tokens
from descant.runtime.loops.speculation.lane_costs import LaneCost, round_costs

V = 8
TABLES = {
    **{n: descant.TableModel.random(V, seed=i) for i, n in enumerate(("base", "arm", "weak"))},
    "rm": descant.RuleReward.random(V, seed=3),
}
TAIL = "times as fast at an acceptance of 0.7, 0.8 and 0.9 (computed from bytes)"


def lines(formula: str, models: Mapping[str, Any] = TABLES) -> list[str]:
    plan = descant.compile(formula, models, device="cpu").plan
    return [each for each in plan.text(bandwidth=1e9).splitlines() if each.startswith("draft")]


def test_one_of_three_lanes() -> None:
    gain = DraftGain("base", round_costs([LaneCost(1)] * 3, {0}))
    assert gain.speedup(0.9, 4) == pytest.approx(expected_tokens(0.9, 4) * 3 / 7)
    assert gain.best_length(0.8) == 3
    assert gain.best(0.8) == pytest.approx(gain.speedup(0.8, 3))
    assert gain.best(0.8) > gain.speedup(0.8, 2) and gain.best(0.8) > gain.speedup(0.8, 4)
    assert gain.best(0.1) == 1


def test_a_plan_names_the_best_two() -> None:
    assert lines("base + arm - weak") == [
        f"drafts      by base, 3 tokens ahead: 1.3, 1.5 and 1.7 {TAIL}",
        f"drafts      by arm, 3 tokens ahead: 1.3, 1.5 and 1.7 {TAIL}",
    ]


def test_the_smallest_comes_first_and_the_largest_is_left_out() -> None:
    sizes = {"large": 5632, "arm": 1408, "small": 352}  # of the feed-forward layers
    configs = {name: shapes.config("tiny") for name in sizes}
    for name, size in sizes.items():
        configs[name].intermediate_size = size
    models = {name: AutoModelForCausalLM.from_config(each) for name, each in configs.items()}
    first, second = lines("large + arm - small", models)
    assert first.startswith("drafts      by small, ") and second.startswith("drafts      by arm, ")


@pytest.mark.parametrize("formula", ["base", "base - 0.5*base@none", "base | best_of(rm, n=2)"])
def test_one_lane_is_drafted_by_no_term(formula) -> None:
    assert lines(formula) == []


def test_a_reward_that_every_step_asks_counts() -> None:
    assert lines("base | rerank(rm, k=4)") == [
        f"drafts      by base, 2 tokens ahead: 1.1, 1.2 and 1.4 {TAIL}"
    ]


def test_a_run_says_what_was_kept() -> None:
    stats = RunStats()
    for drafted, accepted in ((4, 4), (4, 1), (1000, 900)):
        stats.add_round(drafted, accepted)
    assert stats.draft_summary() == "1,008 tokens in 3 rounds, 905 of them (90%) kept"
    stats.tokens, stats.forwards = 1000, {"strong": 310, "weak": 1204}
    assert stats.draft_summary() == (
        "1,008 tokens in 3 rounds, 905 of them (90%) kept; "
        "per token 0.31 forwards of strong, 1.2 forwards of weak"
    )
    stats.clear()
    assert (stats.rounds, stats.drafted, stats.accepted, stats.forwards) == (0, 0, 0, {})


def test_the_plan_says_what_the_last_run_drafted() -> None:
    decoder = descant.compile("base + arm", TABLES, device="cpu")
    decoder.generate([[1]], max_new_tokens=2, temperature=0)
    assert "\ndrafted " not in str(decoder.plan)
    decoder.session.engine.stats.add_round(4, 3)
    assert "\ndrafted     4 tokens in 1 round, 3 of them (75%) kept" in str(decoder.plan)
