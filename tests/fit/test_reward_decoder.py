"""Fits by rewards in Python: of declared models, expressions and functions."""

from __future__ import annotations

import pytest

import descant
from descant.demo import PROMPTS, models
from descant.errors import ArgumentError, DescantError
from descant.fit.rewards.in_memory import Compiled, fit_decoder
from descant.fit.rewards.options import Options

BOUNDS = {"a": (0, 2), "k": (1, 8)}
SETTINGS = {"max_new_tokens": 6, "temperature": 1.0}


@pytest.fixture(scope="module")
def decoder():
    formula = "base + a*arm_help | rerank(reward_help, k=k, w=0.5)"
    return descant.compile(formula, models(), params={"a": 0.5, "k": 4})


def fitted(decoder, reward, prompts=PROMPTS[:3], samples=1, **options):
    compiled = Compiled(decoder, decoder._bound.plan, decoder._params, decoder._models("fit"))
    options = Options(**{"bounds": BOUNDS, "trials": 4, **options})
    return fit_decoder(compiled, prompts, reward, options, samples=samples, **SETTINGS)


def test_trials_measure_what_generate_and_score_give(decoder):
    before = decoder.generate(PROMPTS[0], seed=3, **SETTINGS)[0].token_ids

    @descant.reward
    def short(prompts, completions, completion_ids):
        return [
            -float(len(ids)) - len(text) / 100
            for text, ids in zip(completions, completion_ids, strict=True)
        ]

    expression = "min(reward_help, reward_harm) - 0.1*a*answer_length"
    found = fitted(decoder, {"worst": expression, "-short": short}, samples=2, seed=7)
    assert found.objectives == ("worst", "-short") and found.trials[0].params == {"a": 0.5, "k": 4}
    again = fitted(decoder, {"worst": expression, "-short": short}, samples=2, seed=7)
    assert found == again != fitted(decoder, {"worst": expression, "-short": short}, samples=2)
    assert decoder.generate(PROMPTS[0], seed=3, **SETTINGS)[0].token_ids == before
    from descant.inputs.expand import seed_of

    trial = found.trials[found.front[-1]]
    seeds = [seed_of(7, "formula", {}, 2, sample) for sample in (0, 1)]
    drawn = [
        decoder.generate(PROMPTS[2], params=trial.params, seed=s, **SETTINGS)[0] for s in seeds
    ]
    rewards = [
        min(descant.score(r, [PROMPTS[2]], [one.text], models=models())[0]
            for r in ("reward_help", "reward_harm")) - 0.1 * trial.params["a"] * len(one.token_ids)
        for one in drawn
    ]  # fmt: skip
    shorts = [-len(one.token_ids) - len(one.text) / 100 for one in drawn]
    assert trial.measured[2] == pytest.approx([sum(rewards) / 2, sum(shorts) / 2], abs=1e-4)


def test_a_reward_that_shares_weights_with_the_formula(decoder):
    """A reward that is an adapter's base, too, leaves the decoder as it was."""
    found = fitted(decoder, "reward_help", pruner="median")
    assert found.hypervolume is None and len(found.front) == 1
    assert found.convergence[-1] == found.means(found.best)[0].mean


@pytest.mark.parametrize(
    ("reward", "options", "problem"),
    [
        ("reward_hlep", {}, "did you mean reward_help"),
        ("arm_help", {}, "arm_help is a language model, and a reward is a reward model's"),
        ("base", {}, "base is a language model"),
        ({}, {}, "reward is {}; give the name of a declared model"),
        ({"r": len}, {}, "write descant.reward"),
        ("reward_help", {"bounds": {"c": (0, 1)}}, "no term and no stage uses c"),
        ("reward_help", {"holdout": 0.01}, "leaves none on one side"),
    ],
)
def test_what_is_wrong_is_said(decoder, reward, options, problem):
    with pytest.raises(DescantError, match=problem):
        fitted(decoder, reward, **options)


def test_arguments_of_each_trial_are_refused(decoder):
    compiled = Compiled(decoder, decoder._bound.plan, decoder._params, decoder._models("fit"))
    with pytest.raises(ArgumentError, match="fit gives every trial its own params; leave it out"):
        fit_decoder(compiled, PROMPTS[:2], "reward_help", Options(BOUNDS), params={"a": 1})
