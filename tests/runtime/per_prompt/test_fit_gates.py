"""``Decoder.fit_gates``: from texts that a gated formula drew, to a formula with heads."""

from __future__ import annotations

import pytest
import torch
from checkpoints import fresh

import descant
from descant import FormulaError, ModelError
from descant.errors import ArgumentError

PROMPTS = [[1, 17 + n, 30, 9] for n in range(60)]


@pytest.fixture(scope="module")
def models(zoo):
    return {name: {"path": zoo.path(name), "dtype": "float32"} for name in ("base", "arm")}


@pytest.fixture(scope="module")
def drawn(models):
    """Texts of a formula whose arm counts where the state of the base says so."""
    weight = 2.5 * torch.randn(1, 32, generator=torch.Generator().manual_seed(5))
    gate = {"head": (weight, torch.zeros(1)), "on": "base", "layer": 0}
    decoder = descant.compile("base + 3*sigmoid(head(base, gate))*arm", {**models, "gate": gate})
    answers = decoder.generate(
        PROMPTS, max_new_tokens=24, temperature=1.0, seed=[*range(len(PROMPTS))], eos_token_id=[]
    )
    return [answer.token_ids for answer in answers]


@pytest.fixture(scope="module")
def fitted(models, drawn):
    decoder = descant.compile("base + (a - b)*arm", models, params={"a": 1.5, "b": 0.0})
    before = decoder.loglikelihood(PROMPTS[:2], drawn[:2])
    gates = decoder.fit_gates(PROMPTS, drawn, on="base", layer=0, bounds={"a": (0, 3)})
    assert decoder.loglikelihood(PROMPTS[:2], drawn[:2]) == before
    return decoder, gates


def test_what_the_gates_say_is_the_likelihood_of_their_formula(models, drawn, fitted, tmp_path):
    """Of the texts that were learnt, by the formula with heads, in memory and from files."""
    _, gates = fitted
    assert gates.formula == "base + ((3*sigmoid(head(base, gate_a))) - b)*arm"
    assert gates.helps and gates.texts == 48 and gates.tokens == 48 * 24
    for heads in (gates.models, gates.save(tmp_path)):
        gated = descant.compile(gates.formula, {**models, **heads}, params={"b": 0.0})
        likelihoods = gated.loglikelihood(PROMPTS, drawn)
        total = sum(each.total for each in likelihoods)
        expected = gates.loglikelihood * 48 * 24 + gates.held_out * 12 * 24
        assert total == pytest.approx(expected, abs=0.5)


def test_constants_are_those_of_a_fit(fitted, drawn, zoo):
    """Held-out texts, under the best constant that the others have: by two plain models."""
    decoder, gates = fitted
    fit = decoder.fit(PROMPTS, drawn, bounds={"a": (0, 3)}, holdout=0.2)
    held_out = fit.holdout["loglikelihood"][1] / fit.holdout["tokens"]
    assert gates.constant == pytest.approx(held_out, abs=2e-3)
    plain = {name: fresh(zoo.path(name)) for name in ("base", "arm")}
    total = 0.0
    for prompt, ids in zip(PROMPTS, drawn, strict=True):
        with torch.no_grad():
            text = torch.tensor([prompt + ids])
            rows = [model(text).logits[0, len(prompt) - 1 : -1] for model in plain.values()]
        both = rows[0].log_softmax(-1) + fit.params["a"] * rows[1].log_softmax(-1)
        total += float(both.log_softmax(-1)[range(len(ids)), ids].sum())
    expected = fit.loglikelihood + fit.holdout["loglikelihood"][1]
    assert total == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("formula", "options", "kind", "said"),
    [
        ("base + a*arm", {"bounds": {"a": (0, 1)}, "on": "arm2"}, ModelError, "no term arm2"),
        ("base + a*arm", {"bounds": {"a": (0, 1)}, "layer": 9}, ModelError, "no layer 9"),
        ("base + a*arm", {"bounds": {"c": (0, 1)}}, ArgumentError, "c"),
        ("base + a*arm", {"bounds": {"a": (0, 1)}, "holdout": 0.0}, ArgumentError, "holdout"),
        ("mix(a: base, 1-a: arm)", {"bounds": {"a": (0, 1)}}, FormulaError, "gates are for sums"),
        ("base + arm | top_k(a)", {"bounds": {"a": (1, 9)}}, FormulaError, "top_k"),
        ("base + arm[a*lora4]", {"bounds": {"a": (0, 1)}}, FormulaError, "lora4"),
    ],
)
def test_what_no_head_can_say_is_refused(compiled, formula, options, kind, said):
    if "lora4" in formula:
        formula = formula.replace("arm[", "base[")
    decoder = compiled(formula, params={"a": 1.0})
    with pytest.raises(kind, match=said):
        decoder.fit_gates(PROMPTS[:5], [[5, 6]] * 5, **{"on": "base", "layer": 0, **options})
