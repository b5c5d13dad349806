"""Gates: recovered from texts that a gated formula drew, and what a formula makes of them."""

from __future__ import annotations

import pytest
import torch
from checkpoints import fresh

import descant
from descant import ModelError
from descant.errors import ArgumentError
from descant.runtime.loops.hidden_states import hidden_states
from descant.runtime.per_prompt.gates import best_gates, check_bounds, gated, in_formula

POSITIONS, HIDDEN, V = 3000, 12, 40
BOUNDS = [(0.0, 2.0), None]


def drawn(seed: int):
    """States, three terms' scores, and tokens that two known gates drew."""
    torch.manual_seed(seed)
    states = 3 * torch.randn(POSITIONS, HIDDEN) + 1
    weight, bias = 0.3 * torch.randn(2, HIDDEN), torch.tensor([0.2, -0.5])
    scores = 2 * torch.randn(3, POSITIONS, V)

    def logprobs(values, piece):
        of = scores[:, piece]
        return (of[0] + values[:, :1] * of[1] + values[:, 1:] * of[2]).log_softmax(-1)

    values = gated(states @ weight.T + bias, BOUNDS)
    tokens = torch.multinomial(logprobs(values, slice(None)).exp(), 1)

    def likelihood(values, piece):
        return logprobs(values, piece).gather(1, tokens[piece])[:, 0]

    def pieces():
        for first in range(0, POSITIONS, 700):
            piece = slice(first, min(first + 700, POSITIONS))
            yield piece, lambda values, piece=piece: likelihood(values, piece)

    return states, pieces, likelihood, values, weight, bias


def test_known_gates_are_recovered():
    states, pieces, likelihood, values, weight, bias = drawn(0)
    learnt = torch.arange(POSITIONS) % 5 != 0
    gates = best_gates(pieces, states, learnt, BOUNDS, [1.0, 0.0])
    assert (gates.weight - weight).abs().max() < 0.1
    assert (gates.bias - bias).abs().max() < 0.2
    truth = float(likelihood(values, slice(None))[~learnt].mean())
    assert gates.helps and gates.held_out == pytest.approx(truth, abs=0.02)
    found = gated(states @ gates.weight.T + gates.bias, BOUNDS)
    own = likelihood(found, slice(None))
    assert float(own[~learnt].mean()) == pytest.approx(gates.held_out, abs=1e-4)
    assert float(own[learnt].mean()) == pytest.approx(gates.loglikelihood, abs=1e-4)


def test_states_that_say_nothing_leave_the_constants():
    """With states of other positions, the largest penalty is best, and no gate helps."""
    states, pieces, *_ = drawn(1)
    learnt = torch.arange(POSITIONS) % 5 != 0
    others = states[torch.randperm(POSITIONS)]
    gates = best_gates(pieces, others, learnt, BOUNDS, [1.0, 0.0], penalties=[1.0, 1000.0])
    assert gates.penalty == 1000.0
    assert gates.held_out == pytest.approx(gates.constant, abs=0.02)


@pytest.mark.parametrize("learnt", [True, False])
def test_some_texts_are_held_out(learnt):
    states, pieces, *_ = drawn(2)
    with pytest.raises(ArgumentError, match="holdout"):
        best_gates(pieces, states, torch.full((POSITIONS,), learnt), BOUNDS, [1.0, 0.0])


@pytest.mark.parametrize("bounds", [(0.0, float("inf")), (1.0, 1.0), (2.0, 0.0)])
def test_bounds_are_two_numbers(bounds):
    with pytest.raises(ArgumentError, match=r"a: \[lower, upper\]"):
        check_bounds({"a": bounds})


def test_states_are_those_of_transformers(compiled, zoo):
    """In a batch of texts of several lengths, beside an adapter of the same weights."""
    decoder = compiled("base + lora4")
    prompts, ids = [[1, 17, 30, 9], [1, 44], [1, 5, 250]], [[7, 8], [9, 9, 9, 4], [3]]
    builder = decoder.session.builder
    requests = [
        builder.request(number, *row, max_new_tokens=9, strict=True)
        for number, row in enumerate(builder.rows(prompts, None))
    ]
    found = dict(hidden_states(decoder.session.bound, "base", 0, requests, ids))
    model = fresh(zoo.path("base"))
    for number, (prompt, completion) in enumerate(zip(prompts, ids, strict=True)):
        with torch.no_grad():
            out = model(torch.tensor([prompt + completion]), output_hidden_states=True)
        expected = out.hidden_states[1][0, len(prompt) - 1 : -1]
        torch.testing.assert_close(found[number], expected, atol=1e-5, rtol=1e-5)
    for model, problem in (("arm", "no term arm"), ("lora4", "no term lora4")):
        with pytest.raises(ModelError, match=problem):
            next(hidden_states(decoder.session.bound, model, 0, requests, ids))


def test_a_gate_is_what_the_formula_says(zoo):
    """The number that multiplies the arm, at the token that the scores follow."""
    weight, bias = 0.2 * torch.randn(1, 32), torch.tensor([0.3])
    models = {
        "base": {"path": zoo.path("base"), "dtype": "float32"},
        "arm": {"path": zoo.path("arm"), "dtype": "float32"},
        "gate": {"head": (weight, bias), "on": "base", "layer": 0},
    }
    ids = [5, 6, 7]
    for bounds in ((0.0, 2.0), (-1.0, 0.5), None):
        written = in_formula(bounds, "head(base, gate)")
        scores = descant.compile(f"base + {written}*arm", models).scores([1, 17, 30], ids)
        plain = {name: fresh(zoo.path(name)) for name in ("base", "arm")}
        with torch.no_grad():
            text = torch.tensor([[1, 17, 30, *ids]])
            base = plain["base"](text, output_hidden_states=True)
            values = gated(base.hidden_states[1][0, 2:] @ weight.T + bias, [bounds])
            expected = base.logits[0, 2:].log_softmax(-1)
            expected = expected + values * plain["arm"](text).logits[0, 2:].log_softmax(-1)
        torch.testing.assert_close(
            scores.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=1e-4
        )
