"""The choice of a draft, over simulated batches: near the best one, cheap where none pays."""

from __future__ import annotations

from statistics import mean

import pytest
from simulated import Fixed, Workload

from descant.runtime.loops.speculation.auto import AutoDraft
from descant.runtime.loops.speculation.draft_length import RoundCosts
from descant.runtime.loops.speculation.lane_costs import LaneCost, round_costs

SEEDS = range(8)
EQUAL = [LaneCost(1 / 3)] * 3  # so that a step costs 1
STRONG = [LaneCost(6 / 8), LaneCost(1 / 8), LaneCost(1 / 8)]
BASE, WEAK = round_costs(EQUAL, {0}), round_costs(STRONG, {1})
PROMPT = round_costs(EQUAL)


def slower(costs: RoundCosts, by: float, per_token: float) -> RoundCosts:
    """Rounds that take so many steps more than predicted: each, and for each drafted token."""
    verify = [cost + (by + per_token * n if n else 0) for n, cost in enumerate(costs.verify)]
    return RoundCosts(costs.step, costs.draft, tuple(verify))


def times(predicted, real, rate, **more) -> tuple[float, float, float]:
    """Seconds over those of ordinary steps, of the best fixed choice, and rounds per seed."""
    loads = [Workload(real, rate, seed=seed, **more) for seed in SEEDS]
    taken = mean(load.run(AutoDraft(predicted)) for load in loads)
    best = mean(Workload(real, rate, seed=seed, **more).best_fixed() for seed in SEEDS[:3])
    return taken / loads[0].tokens, taken / best, mean(load.rounds for load in loads)


PAYS = {
    "one of three": ({"base": BASE}, {"base": 0.9}, 0.0, 0.0),
    "on a CPU": ({"base": BASE}, {"base": 0.9}, 0.0, 0.12),
    "weak to strong": ({"weak": WEAK}, {"weak": 0.9}, 0.1, 0.05),
    "a copy": ({"base": BASE, "prompt": PROMPT}, {"base": 0.8, "prompt": 0.97}, 0.0, 0.12),
    "no copy": ({"base": BASE, "prompt": PROMPT}, {"base": 0.9, "prompt": 0.3}, 0.0, 0.12),
}


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", PAYS)
def test_it_comes_near_the_best_choice(name, rows) -> None:
    predicted, rates, by, per_token = PAYS[name]
    real = {draft: slower(costs, by, per_token) for draft, costs in predicted.items()}
    over_none, over_best, _ = times(
        predicted, real, lambda draft, _: rates[draft], rows=rows, tokens=600
    )
    assert over_none < 0.85
    assert over_best < 1.1


NEVER = {
    "nothing agrees": ({"base": BASE, "prompt": PROMPT}, {"base": 0.4, "prompt": 0.05}, 0.0, 0.12),
    "rounds are slow": ({"base": BASE, "prompt": PROMPT}, {"base": 0.8, "prompt": 0.5}, 0.5, 0.6),
    "it is close": ({"base": BASE}, {"base": 0.7}, 0.1, 0.2),
}


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", NEVER)
def test_it_costs_little_where_none_pays(name, rows) -> None:
    predicted, rates, by, per_token = NEVER[name]
    real = {draft: slower(costs, by, per_token) for draft, costs in predicted.items()}
    over_none, _, _ = times(predicted, real, lambda draft, _: rates[draft], rows=rows)
    assert over_none < 1.03


def test_a_long_run_without_gain_loses_ever_less() -> None:
    real = {"base": slower(BASE, 0.5, 0.6)}
    over_none, _, rounds = times({"base": BASE}, real, lambda *_: 0.8, tokens=3000)
    assert over_none < 1.02 and rounds < 40


def test_it_stops_where_a_text_becomes_hard() -> None:
    real = {"weak": slower(WEAK, 0.1, 0.05)}
    hard = times({"weak": WEAK}, real, lambda _, done: 0.95 if done < 200 else 0.1)
    always = Workload(real, lambda _, done: 0.95 if done < 200 else 0.1).run(Fixed("weak", 4))
    assert hard[0] < 0.75  # 200 tokens for a third of their steps' time, and 200 at theirs
    assert 400 * hard[0] < always


def test_it_begins_where_a_text_becomes_easy() -> None:
    real = {"weak": slower(WEAK, 0.1, 0.05)}
    easy, _, _ = times({"weak": WEAK}, real, lambda _, done: 0.1 if done < 200 else 0.95)
    assert easy < 0.8


def test_without_noise_the_choice_is_the_best_one() -> None:
    load = Workload({"base": BASE, "prompt": PROMPT}, lambda draft, _: float(draft == "prompt"),
                    noise=0)  # fmt: skip
    auto = AutoDraft({"base": BASE, "prompt": PROMPT})
    assert load.run(auto) < 0.25 * load.tokens
    assert auto.choose(1) == ("prompt", 8)
    assert auto.choose(1, room=3) == ("prompt", 3)
    assert auto.choose(1, room=0) == (None, 0)


def steps(auto: AutoDraft, count: int, rows: int, **agreements: tuple[int, int]) -> None:
    for _ in range(count):
        auto.choose(rows)
        auto.observe_step(1.0, rows, agreements)


def test_it_looks_first() -> None:
    auto = AutoDraft({"base": BASE})
    for _ in range(8):
        assert auto.choose(1) == (None, 0)
        auto.observe_step(1.0, 1, {"base": (1, 1)})
    assert auto.choose(1)[0] == "base"


def test_many_rows_are_a_shorter_look() -> None:
    auto = AutoDraft({"base": BASE})
    steps(auto, 3, rows=8, base=(8, 8))
    assert auto.choose(8)[0] == "base"


def test_other_numbers_of_rows_are_compared_with_their_own_steps() -> None:
    auto = AutoDraft({"base": BASE})
    steps(auto, 3, rows=8, base=(8, 8))
    assert auto.choose(15)[0] == "base"
    assert auto.choose(3) == (None, 0)
    steps(auto, 3, rows=3, base=(3, 3))
    assert auto.choose(3)[0] == "base"


def test_a_slow_draft_is_judged_after_two_rounds() -> None:
    auto = AutoDraft({"base": BASE})
    steps(auto, 8, rows=1, base=(1, 1))
    _, length = auto.choose(1)
    auto.observe_round("base", length, 30.0, [(length, length)])  # an outlier, or a beginning
    assert auto.choose(1) == ("base", length)
    auto.observe_round("base", length, 30.0, [(length, length)])
    assert auto.choose(1) == (None, 0)


def test_an_ordinary_step_now_and_then() -> None:
    auto = AutoDraft({"base": BASE})
    steps(auto, 8, rows=1, base=(1, 1))
    since = 0
    for _ in range(100):
        name, length = auto.choose(1)
        if name is None:
            assert since == 32
            auto.observe_step(1.0, 1, {"base": (1, 1)})
        else:
            auto.observe_round(name, length, BASE.cost(length), [(length, length)])
        since = 0 if name is None else since + 1


def test_rows_without_a_proposal_lower_what_is_expected() -> None:
    chosen = []
    for proposals in (8, 1):
        auto = AutoDraft({"prompt": slower(PROMPT, 1.5, 0.1)})
        for _ in range(20):
            auto.observe_step(1.0, 8, {"prompt": (proposals, proposals)})
        chosen.append(auto.choose(8)[0])
    assert chosen == ["prompt", None]


def test_steps_without_any_proposal_say_nothing() -> None:
    auto = AutoDraft({"prompt": PROMPT})
    steps(auto, 8, rows=1, prompt=(1, 1))
    assert auto.choose(1)[0] == "prompt"
    for _ in range(50):  # nothing was found, and the caller took a step
        auto.observe_step(1.0, 1, {"prompt": (0, 0)})
    assert auto.choose(1)[0] == "prompt"


def test_without_candidates_nothing_is_drafted() -> None:
    auto = AutoDraft({})
    steps(auto, 20, rows=1)
    assert auto.choose(1) == (None, 0)
