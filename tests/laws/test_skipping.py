"""Leaving log-softmax out where the plan says that it may be changes no token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from interpreter import World
from random_formulas import OPERATORS, formulas, linear, operators
from test_laws import LANES, TABLES, UNDEFINED, compiled, law, params, texts

import descant
from descant import FormulaError
from descant.formula.words.operators import OPERATORS as CLASSES
from descant.formula.words.signature import Shift
from descant.formula.words.stages import STAGES
from descant.grammar import Node, parse
from descant.runtime.scores.noise import gumbel, seed_key


def decoded(
    decoder: descant.Decoder, skipping: bool, prompt: list[int], **settings
) -> tuple[list[int], list[torch.Tensor]]:
    """The tokens that are drawn, and the scores that each was drawn from."""
    step, rows = decoder.session.engine.step, []
    skipped, scoring = step.unnormalised, step.scoring

    def recorded(batch, context):
        rows.append((yield from scoring(batch, context)).clone())
        return rows[-1]

    step.unnormalised, step.scoring = skipped if skipping else frozenset(), recorded
    try:
        [found] = decoder.generate(prompt, max_new_tokens=5, **settings)
    finally:
        step.unnormalised, step.scoring = skipped, scoring
    return found.token_ids, [row[0] for row in rows]


def hold(
    tree: Node, values: dict[str, float], prompt: list[int], temperature: float, seed: int
) -> int:
    """Hold a decoder that skips against one that does not; how many of its steps were compared."""
    decoder = compiled(tree)
    settings = {"params": values, "temperature": temperature, "seed": seed}
    try:
        skipped, raw = decoded(decoder, True, prompt, **settings)
        tokens, exact = decoded(decoder, False, prompt, **settings)
    except FormulaError as error:
        assert any(said in error.problem for said in (*UNDEFINED, "every token is excluded"))
        assume(False)
    for step, (one, other) in enumerate(zip(raw, exact, strict=True)):
        world = World(TABLES, values, [*prompt, *tokens[:step]], step)
        kept = sorted(world.scores(tree))
        near = 1e-4 * world.scale
        if world.margin < near:
            return step
        assert one.isfinite().nonzero()[:, 0].tolist() == kept
        assert torch.equal(one.isfinite(), other.isfinite())
        shift = (one - other)[kept]
        assert (shift - shift.mean()).abs().max() < near / 2
        if skipped[step] != tokens[step]:  # only where the two were as good as one another
            drawn = other
            if temperature:
                key = torch.tensor([seed_key(seed)], dtype=torch.int32)
                drawn = other / temperature + gumbel(key, torch.tensor([step]), len(other))[0]
            assert (drawn[skipped[step]] - drawn[tokens[step]]).abs() < near
            return step
    return len(raw)


drawings = (params, texts, st.sampled_from([0.0, 0.7]), st.integers(0, 99))


@settings(law, max_examples=200)
@given(linear | formulas, *drawings)
def test_skipping_changes_no_token(tree, values, prompt, temperature, seed) -> None:
    hold(tree, values, prompt, temperature, seed)


@pytest.mark.parametrize("name", OPERATORS)
@settings(law, max_examples=25)
@given(st.data(), *drawings)
def test_skipping_around_each_operator(name, data, values, prompt, temperature, seed) -> None:
    hold(data.draw(operators(3, (name,))), values, prompt, temperature, seed)


# Formulas of terms that need their log-softmax: each says so of one operator or stage.
FELT = {
    "max": "max(base, 0.7*arm)", "min": "min(base, 0.7*arm)", "debias": "debias(base, arm, 10)",
    "repetition_penalty": "base + arm | repetition_penalty(1.5)",
}  # fmt: skip


@pytest.mark.parametrize("name", FELT)
def test_the_law_finds_a_wrong_claim(name, monkeypatch) -> None:
    def compared() -> int:
        return sum(hold(parse(FELT[name]), {}, [start, 4], 0.0, 0) for start in range(4))

    assert compared() > 8
    for wrong in (Shift.PASSED, Shift.ABSORBED):
        monkeypatch.setattr((CLASSES | STAGES)[name], "on_shift", wrong)
        with pytest.raises(AssertionError):
            compared()


PASSED = {
    "plausible": "plausible(base, 0.01)", "top_k": "top_k(base, 9)",
    "temperature": "(base | temperature(1.5))",
}  # fmt: skip


@pytest.mark.parametrize("name", PASSED)
def test_the_law_finds_that_what_is_passed_on_is_not_absorbed(name, monkeypatch) -> None:
    tree = parse(f"max({PASSED[name]}, arm)")
    assert hold(tree, {}, [3], 0.0, 0)
    monkeypatch.setattr((CLASSES | STAGES)[name], "on_shift", Shift.ABSORBED)
    with pytest.raises(AssertionError):
        hold(tree, {}, [3], 0.0, 0)


def test_a_judgement_is_of_log_probabilities() -> None:
    """The same lane is read raw for the formula, and normalised for the search's judgement."""
    decoder = descant.compile("base | best_of(2*arm - base, n=6)", LANES)
    skipped = decoder.session.engine.step.unnormalised
    assert skipped
    for seed in range(12):
        found = []
        for terms in (skipped, frozenset()):
            decoder.session.engine.step.unnormalised = terms
            [one] = decoder.generate([3], max_new_tokens=4, seed=seed)
            found.append(one.token_ids)
        assert found[0] == found[1]


def test_scores_are_those_of_log_probabilities() -> None:
    plain = torch.log_softmax(LANES["base"].table[3], -1)
    assert torch.equal(descant.compile("base", LANES).scores([3], [])[0], plain)
