"""Trials by themselves: searched, proposed, pruned and found, against plain computations."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import random
from functools import partial

import numpy as np
import pytest
from scipy.stats import kstest, wilcoxon

from descant.errors import ArgumentError, DescantError
from descant.fit.rewards.options import Options
from descant.fit.rewards.outcome import RESAMPLES, outcome_of
from descant.fit.rewards.space import space_of
from descant.fit.rewards.study import Search
from descant.fit.rewards.trials import Trial, run_trials
from descant.formula import Names, make_plan

FORMULA = "a*x + b*y | rerank(r, k=k, w=w) | top_k(2*n)"
PLAN = make_plan(FORMULA, Names(frozenset("xyr"), frozenset("abkwn"), {}))
START = {"a": 1.0, "b": 0.5, "k": 5.0, "w": 1.0, "n": 3.0}
PROMPTS = range(12)


class Kept(list):
    """A log that is written as a file's lines are."""

    def read(self):
        return [json.loads(line) for line in self]

    def add(self, records):
        self.extend(map(json.dumps, records))


def noise(prompt):
    return random.Random(prompt).gauss(0, 0.3)


def bowl(points, ids, scores=1, asked=None):
    """One or two scores with known optima: at a = 0.7, k = 5, and at a = 0."""
    if asked is not None:
        asked += [(point, id) for point in points for id in ids]
    return {
        point: {
            id: [
                noise(id) - (p["a"] - 0.7) ** 2 - (p["k"] - 5) ** 2 / 50,
                noise(-id) - p["a"] ** 2,
            ][:scores]
            for id in ids
        }
        for point, p in points.items()
    }


def search(trials=40, objectives=1, seed=0, **more):
    space = space_of({"a": (0, 2), "k": (1, 20)}, PLAN)
    start = {"a": 2.0, "k": 20.0}
    return Search(space, (1,) * objectives, trials, 4, seed, start, **more)


def test_a_space_knows_whole_numbers_and_simplexes():
    bounds = {
        "k": [2, 9],
        "n": (1, 3),
        "w": {"from": 0.1, "to": 10, "log": True},
        "temperature": (0, 1),
    }
    space = space_of(bounds, PLAN, ["simplex(a, b)"])
    assert [axis.integer for axis in space.axes] == [True, True, False, False]
    assert space.names == ["k", "n", "w", "temperature", "a", "b"]
    point = {"k": 3, "n": 2, "w": 2.5, "temperature": 0.25, "a": 0.125, "b": 0.875}
    assert space.point(space.proposal(point)) == pytest.approx(point)
    assert (
        space.proposal({**point, "b": 0.7}) is None and space.proposal({**point, "w": 11}) is None
    )
    assert space.proposal({**point, "k": 2.5}) is None, "between two whole numbers"
    stepped = space_of({"a": {"from": 0, "to": 1, "step": 0.3}}, PLAN)
    assert stepped.grid(100) == [{"a": v} for v in (0, 0.3, 0.6, 0.9)]


def test_the_simplex_is_drawn_uniformly():
    """Of three uniform weights that sum to 1 each is below x with probability 1 - (1 - x)²."""
    names = Names(frozenset("xyz"), frozenset("abc"), {})
    space = space_of({}, make_plan("a*x + b*y + c*z", names), ["simplex(a, b, c)"])
    shares = np.random.default_rng(0).random((2000, 2))
    points = [space.point({"simplex(a)": u, "simplex(b)": v}) for u, v in shares]
    assert all(
        min(p.values()) >= 0 and math.isclose(sum(p.values()), 1, abs_tol=2e-6) for p in points
    )
    for name in "abc":
        assert kstest([p[name] for p in points], lambda x: 1 - (1 - x) ** 2).pvalue > 0.01
    assert [len(space.grid(most)) for most in (1, 2, 3, 6, 10)] == [1, 1, 3, 6, 10]


@pytest.mark.parametrize("most", [1, 5, 20, 63])
def test_a_grid_costs_at_most_what_it_may(most):
    space = space_of({"a": (0, 2), "k": (1, 3), "w": (0, 1)}, PLAN)
    grid = space.grid(most)
    values = [len({point[name] for point in grid}) for name in "akw"]
    assert len(grid) == math.prod(values) <= most and values[1] <= 3
    for i, size in enumerate(values):  # it is as large as may be
        larger = math.prod(values) // size * (size + 1)
        assert larger > most or (i == 1 and size == 3)


@pytest.mark.parametrize(
    ("bounds", "constraints", "problem"),
    [
        ({}, (), "bounds: name what is searched"),
        ({"aa": (0, 1)}, (), "bounds.aa: no term and no stage uses aa; did you mean a"),
        ({"a": None}, (), "bounds.a is null|bounds.a is None"),
        ({"a": (0, math.inf)}, (), "bounds.a: inf is no end; a search needs both"),
        ({"a": (1, 1)}, (), "bounds.a goes from 1 to 1; write the lower first"),
        ({"a": {"from": 0, "to": 1, "log": True}}, (), "a logarithmic axis begins above 0"),
        ({"a": {"from": 0, "to": 1, "by": 2}}, (), "there is no option by"),
        ({"k": (1, 2.5)}, (), "bounds.k: the formula needs whole numbers"),
        ({"k": (0, 5)}, (), r"k of rerank must be at least 1, not 0(.|\n)*k=k"),
        ({"a": (0, 1)}, ["a + b <= 1"], "on a simplex at most"),
        ({"a": (0, 2)}, ["simplex(a, b)"], "bounds.a: on a simplex it is from 0 to 1"),
    ],
)
def test_wrong_bounds_say_what_to_write(bounds, constraints, problem):
    with pytest.raises(DescantError, match=problem):
        Options(bounds, constraints).search(PLAN, START, ["r"], 8, 32)


def test_wrong_options_say_what_to_write():
    for more, problem in (
        ({"trials": 0}, "trials is 0"),
        ({"pruner": "median"}, "compares trials by one score"),
        ({"weights": {"hlep": 1}}, "weights.hlep: hlep is not maximised; did you mean help"),
    ):
        with pytest.raises(ArgumentError, match=problem):
            Options({"a": (0, 1)}, **more).search(PLAN, START, ["help", "-harm"], 8, 32)


def test_trials_of_a_round_fill_a_batch():
    def at_once(rows, trials):
        return Options({"a": (0, 1)}, trials=trials).search(PLAN, START, ["r"], rows, 32).at_once

    assert [at_once(4, 50), at_once(5, 50), at_once(300, 50), at_once(1, 50)] == [8, 7, 1, 10]


def searched(sampler, trials, seeds):
    """The trials of some searches for the optimum of the bowl."""
    runs = (search(trials, seed=seed, sampler=sampler) for seed in seeds)
    return [run_trials(run, PROMPTS, bowl, Kept()) for run in runs]


@pytest.mark.parametrize(("sampler", "near"), [("tpe", 0.03), ("gp", 0.03), ("nsga2", 0.3)])
def test_a_known_optimum_is_found_and_the_seed_repeats_it(sampler, near):
    if sampler == "gp":  # after gradients of torch no process forks well, as other tests do
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(searched, (sampler, 18, (1, 1, 2)))
    else:
        found = searched(sampler, 80, (1, 1, 2))
    assert found[0] == found[1] != found[2]
    assert found[0][0].params == {"a": 2.0, "k": 20.0}, "the start is tried first"
    top = sum(map(noise, PROMPTS)) / 12
    for trials in found:
        outcome = outcome_of(["r"], trials)
        assert top - outcome.means(outcome.best)[0].mean < near
        assert outcome.convergence == tuple(np.maximum.accumulate([t.mean(0) for t in trials]))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
@pytest.mark.parametrize("objectives", [1, 2])
def test_a_search_goes_on_as_if_it_had_not_been_stopped(sampler, objectives):
    measure = partial(bowl, scores=objectives)
    run = partial(run_trials, search(40, objectives, sampler=sampler), PROMPTS, measure)
    log = Kept()
    whole = run(log)
    for kept in (0, 1, 5):
        cut = Kept(log[:kept])
        assert run(cut) == whole and cut == log
    generations = [p["attributes"] for line in log.read() for p in line["proposed"]]
    if sampler == "nsga2":  # of eight each
        assert [g["NSGAIISampler:generation"] for g in generations] == [i // 8 for i in range(40)]


@pytest.mark.parametrize("pruner", ["wilcoxon", "median"])
def test_what_is_pruned_is_worse_and_is_not_measured_further(pruner):
    asked, log = [], Kept()
    settings = search(40, pruner=pruner)
    trials = run_trials(settings, PROMPTS, partial(bowl, asked=asked), log)
    pruned = [trial for trial in trials if trial.pruned]
    assert 5 < len(pruned) < 35
    for trial in trials:
        own = [id for point, id in asked if point == trial.point]
        assert len(own) == len(set(own)) == len(trial.measured)
        assert len(trial.measured) == 12 or trial.pruned
    for line in log.read():  # each decision again, from what was known
        if "rung" in line:
            known = [t for t in trials if t.number < 4 * line["round"] and not t.pruned]
            running = [t for t in trials if t.number // 4 == line["round"]]
            running = [t for t in running if len(t.measured) >= line["rung"]]
            expected = [t.number for t in running if worse(pruner, t, known, line["rung"])]
            assert line["pruned"] == expected
    outcome = outcome_of(["r"], trials)
    assert not trials[outcome.best].pruned


def worse(pruner, trial, known, rung):
    """What a pruner decides, plainly."""
    own = [trial.measured[id][0] for id in PROMPTS[:rung]]
    theirs = [[each.measured[id][0] for id in PROMPTS] for each in known]
    if pruner == "median":
        means = [np.mean(each[:rung]) for each in theirs]
        return len(known) >= 4 and np.mean(own) < np.median(means) - 1e-12
    if not theirs or rung < 2:
        return False
    best = max(theirs, key=np.mean)
    differences = np.array(
        [float(f"{a:.5g}") - float(f"{b:.5g}") for a, b in zip(own, best, strict=False)]
    )
    p = wilcoxon(differences, alternative="less", zero_method="zsplit").pvalue
    return p < 0.1 and np.mean(own) < np.mean(best)


def volume(points, reference):
    """The area above a reference, by a plain sweep from the right."""
    area, height = 0.0, reference[1]
    for x, y in sorted(points, reverse=True):
        if x > reference[0] and y > height:
            area += (x - reference[0]) * (y - height)
            height = y
    return area


def test_the_front_is_that_of_brute_force_with_its_volume_and_interval():
    draw = random.Random(3)
    measured = [
        {id: [draw.gauss(i % 5, 1), draw.gauss(-i, 2)] for id in "uvwxyz"} for i in range(9)
    ]
    measured.append(measured[4])
    trials = [Trial(i, i, {"a": float(i)}, m) for i, m in enumerate(measured)]
    trials.append(Trial(10, 10, {"a": 10.0}, {"u": [99.0, 99.0]}, pruned=True))
    reference = {"help": -1.0, "toxic": 12.0}
    found = outcome_of(["help", "-toxic"], trials, reference=reference)

    def means(ids):
        rows = [[np.mean([m[id][j] for id in ids]) for j in (0, 1)] for m in measured]
        return [(x, -y) for x, y in rows]

    own = means("uvwxyz")
    beaten = {
        i
        for i, j in itertools.permutations(range(10), 2)
        if own[j] != own[i] and own[j][0] >= own[i][0] and own[j][1] >= own[i][1]
    }
    assert found.front == tuple(i for i in range(9) if i not in beaten)  # of equals the first
    assert found.reference == (-1.0, 12.0)
    assert found.hypervolume.mean == pytest.approx(volume(own, (-1, -12)))
    picks = np.random.default_rng(0).integers(6, size=(RESAMPLES, 6))
    volumes = [volume(means(["uvwxyz"[i] for i in row]), (-1, -12)) for row in picks]
    low, high = np.quantile(volumes, (0.025, 0.975))
    assert (found.hypervolume.low, found.hypervolume.high) == pytest.approx((low, high))
    assert found.convergence[3] == pytest.approx(volume(own[:4], (-1, -12)))
    boxes = {i: (own[i][0] + 1) * (own[i][1] + 12) for i in found.front}
    assert found.best == max(boxes, key=boxes.get)
    weighed = outcome_of(["help", "-toxic"], trials, weights={"help": 1, "toxic": 0.25})
    assert weighed.best == max(found.front, key=lambda i: own[i][0] + own[i][1] / 4)
    spread = np.std([m[0] for m in measured[found.best].values()], ddof=1) / 6**0.5
    assert found.stderr["help"] == pytest.approx(spread)


def test_a_grid_is_compared_over_the_same_prompts():
    def measured(scores, *values):
        points = {i: {"a": a, "k": 5} for i, a in enumerate(values)}
        return [(points[i], m) for i, m in bowl(points, PROMPTS, scores).items()]

    for scores in (1, 2):
        grid = measured(scores, 0.0, 1.0)
        own = measured(scores, *(i / 9 for i in range(10)))
        trials = [Trial(i, i, point, values) for i, (point, values) in enumerate(own)]
        found = outcome_of(["r", "s"][:scores], trials, grid=grid).grid
        if scores == 1:
            assert found.best == 1
            assert found.gain.mean == pytest.approx(0.09 - (6 / 9 - 0.7) ** 2)
            assert found.gain.high - found.gain.low < 1e-9, "the prompts' noise is in both"
        else:
            ours, theirs = (
                [tuple(np.mean([*m.values()], axis=0)) for _, m in some] for some in (own, grid)
            )
            worst = tuple(np.min(ours + theirs, axis=0))
            assert found.gain.mean == pytest.approx(volume(ours, worst) - volume(theirs, worst))
            assert found.hypervolume.mean == pytest.approx(volume(theirs, worst))
