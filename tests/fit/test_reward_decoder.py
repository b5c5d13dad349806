"""Fits by rewards in Python: of declared models, expressions and functions."""

from __future__ import annotations

import json

import pytest

import descant
from descant.demo import PROMPTS, models
from descant.errors import DescantError
from descant.inputs.expand import seed_of

BOUNDS = {"a": (0, 2), "k": (1, 8)}
SETTINGS = {"max_new_tokens": 6, "temperature": 1.0}


@pytest.fixture(scope="module")
def decoder():
    formula = "base + a*arm_help | rerank(reward_help, k=k, w=0.5)"
    return descant.compile(formula, models(), params={"a": 0.5, "k": 4})


def fitted(decoder, reward, prompts=PROMPTS[:3], **options):
    options = {"bounds": BOUNDS, "trials": 4, **SETTINGS, **options}
    return decoder.fit(list(prompts), objective="reward", reward=reward, **options)


def test_trials_measure_what_generate_and_score_give(decoder):
    before = decoder.generate(PROMPTS[0], seed=3, **SETTINGS)[0].token_ids

    @descant.reward
    def short(prompts, completions, completion_ids):
        pairs = zip(completions, completion_ids, strict=True)
        return [float(len(ids)) + len(text) / 100 for text, ids in pairs]

    rewards = {"worst": "min(reward_help, reward_harm) - 0.1*a*answer_length", "-long": short}
    found = fitted(decoder, rewards, samples=2, seed=7)
    assert found.objective == "reward" and found.start == {"a": 0.5, "k": 4}
    again = fitted(decoder, rewards, samples=2, seed=7)
    assert found.table == again.table != fitted(decoder, rewards, samples=2).table
    assert found.search["objectives"] == ["worst", "-long"]
    assert decoder.generate(PROMPTS[0], seed=3, **SETTINGS)[0].token_ids == before
    row = next(row for row in found.table if row["front"])
    at = {name: row[name] for name in ("a", "k")}
    worst, length = [], []
    for i, prompt in enumerate(PROMPTS[:3]):
        for sample in (0, 1):
            seed = seed_of(7, "formula", {}, i, sample)
            [one] = decoder.generate(prompt, params=at, seed=seed, **SETTINGS)
            reward = "min(reward_help, reward_harm)"
            [least] = descant.score(reward, [prompt], [one.text], models=models())
            worst.append(least - 0.1 * at["a"] * len(one.token_ids))
            length.append(len(one.token_ids) + len(one.text) / 100)
    assert (row["worst"], row["long"]) == pytest.approx((sum(worst) / 6, sum(length) / 6), abs=1e-4)


def test_the_result_is_a_fit(decoder):
    found = fitted(decoder, "reward_help", PROMPTS[:4], pruner="median", holdout=0.25, grid=True,
                   params={"a": 1.0}, bounds={"k": (1, 8), "temperature": (0, 1)})  # fmt: skip
    assert found.start == {"k": 4, "temperature": 1}
    best = next(row for row in found.table if row["best"])
    assert found.params == {"k": best["k"], "temperature": best["temperature"]}
    assert found.stderr.keys() == {"reward_help"} == found.holdout.keys()
    assert len(found.holdout["reward_help"]) == 2 and found.texts == 3
    assert found.run_file["params"] == {"a": 1.0, "k": found.params["k"]}
    assert found.run_file["generate"] == {"temperature": found.params["temperature"]}
    compiled = descant.compile(found.run_file["formula"], found.run_file["models"],
                               params=found.run_file["params"])  # fmt: skip
    assert compiled.generate(PROMPTS[0], max_new_tokens=2)
    assert found.search["hypervolume"] is None and found.search["grid"]["points"] <= 4
    assert json.loads(json.dumps(found.as_dict(), allow_nan=True))["objective"] == "reward"


@pytest.mark.parametrize(
    ("reward", "options", "problem"),
    [
        ("reward_hlep", {}, "did you mean reward_help"),
        ("arm_help", {}, "arm_help is a language model, and a reward is a reward model's"),
        ({}, {}, "reward is {}; give the name of a declared model"),
        ({"r": len}, {}, "write descant.reward"),
        ("reward_help", {"bounds": {"c": (0, 1)}}, "no term and no stage uses c"),
        ("reward_help", {"bounds": None}, "bounds: name what is searched"),
        ("reward_help", {"holdout": 0.99}, "leaves none to fit"),
        ("reward_help", {"num_return_sequences": 2}, "write samples=4"),
        ("reward_help", {"trails": 5}, "trails"),
    ],
)
def test_what_is_wrong_is_said(decoder, reward, options, problem):
    with pytest.raises((DescantError, TypeError), match=problem):
        fitted(decoder, reward, **options)
