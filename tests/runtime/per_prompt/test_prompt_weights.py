"""PackLLM's weights, held against transformers' own loss of each prompt."""

from __future__ import annotations

import math

import pytest
import torch
from checkpoints import fresh

from descant import FormulaError
from descant.errors import ArgumentError
from descant.runtime.per_prompt.perplexity import prompt_weights

FORMULA = "a*base + b*arm + c*arm2"
ONES = {"a": 1.0, "b": 1.0, "c": 1.0}
PROMPTS = ["the river sleeps", "a dog", [1, 17, 30, 9, 44]]


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_weights_are_those_of_the_models_own_losses(compiled, zoo, temperature):
    decoder = compiled(FORMULA, params=ONES)
    weights = prompt_weights(decoder, PROMPTS, temperature)
    for index, prompt in enumerate(PROMPTS):
        losses = []
        for number, name in enumerate(["base", "arm", "arm2"]):
            ids = [token.id for token in decoder.rendered(prompt)[number].tokens]
            row = torch.tensor([ids])
            with torch.no_grad():
                losses.append(float(fresh(zoo.path(name))(row, labels=row).loss))
        expected = torch.tensor([-loss / temperature for loss in losses]).softmax(0).tolist()
        found = [weights[name][index] for name in "abc"]
        assert found == pytest.approx(expected, abs=1e-5)
    rows = decoder.generate(PROMPTS, params=weights, max_new_tokens=2)
    assert [row.params["b"] for row in rows] == pytest.approx(weights["b"])


@pytest.mark.parametrize(
    ("formula", "params", "marked"),
    [
        ("base + a*arm", "a", "base"),
        ("a*base + a*arm", "a", "base"),
        ("a*base + 2*b*arm", "ab", "arm"),
        ("a*base", "a", "a*base"),
        ("a*base + b*arm | top_k(5)", "ab", "a*base + b*arm | top_k(5)"),
        ("a*base + b*max(arm, arm2)", "ab", "a*base + b*max(arm, arm2)"),
    ],
)
def test_other_formulas_are_refused(compiled, formula, params, marked):
    decoder = compiled(formula, params=dict.fromkeys(params, 1.0))
    with pytest.raises(FormulaError, match="with a parameter of its own") as caught:
        prompt_weights(decoder, PROMPTS)
    start, stop = caught.value.span
    assert formula[start:stop] == marked or formula == marked


@pytest.mark.parametrize("temperature", [0, -1.0, math.inf, math.nan])
def test_temperatures_are_above_zero(compiled, temperature):
    with pytest.raises(ArgumentError, match="a finite number above 0"):
        prompt_weights(compiled(FORMULA, params=ONES), PROMPTS, temperature)


def test_a_prompt_of_one_token_has_no_perplexity(compiled):
    with pytest.raises(ArgumentError, match="no perplexity"):
        prompt_weights(compiled(FORMULA, params=ONES), [[7]])
