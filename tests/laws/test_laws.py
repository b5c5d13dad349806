"""Laws that hold for every formula, over tables small enough to compute by walking the tree."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from interpreter import MODELS, PARAMS, REWARDS, World, formulas, sums, values

import descant
from descant import FormulaError
from descant.formula import Names, Read, make_plan
from descant.grammar import Binary, Node, Number, Unary, parse, text

V = 11
LANES = {name: descant.TableModel.random(V, seed=i) for i, name in enumerate(MODELS)}
LANES |= {name: descant.RuleReward.random(V, seed=9 + i) for i, name in enumerate(REWARDS)}
TABLES = {name: lane.table.double().tolist() for name, lane in LANES.items()}
NAMES = Names(frozenset(LANES), frozenset(PARAMS))
texts = st.lists(st.integers(0, V - 1), min_size=1, max_size=5)
params = st.fixed_dictionaries(dict.fromkeys(PARAMS, values))
law = settings(
    max_examples=120, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip


def compiled(tree: Node) -> descant.Decoder:
    """A decoder of a formula in which something is left to decide."""
    try:
        return descant.compile(text(tree), LANES, params=dict.fromkeys(PARAMS, 1.0))
    except FormulaError as error:
        assume("cancels out" not in error.problem)
        raise


def agree(found: torch.Tensor, expected: dict[int, float]) -> None:
    """One row of scores is what the interpreter says, to float32's rounding."""
    kept = found.isfinite().nonzero()[:, 0].tolist()
    assert kept == sorted(expected)
    scale = max(1.0, *map(abs, expected.values()))
    assert [found[token].item() for token in kept] == pytest.approx(
        [expected[token] for token in kept], abs=2e-5 * scale
    )


@law
@given(formulas, params, texts, texts)
def test_the_step_is_what_the_tree_says(tree, given_params, prompt, made) -> None:
    decoder = compiled(tree)
    try:
        found = decoder.scores(prompt, made, params=given_params)
    except FormulaError as error:
        assume("every coefficient is 0" not in error.problem)
        raise
    for step, row in enumerate(found):
        world = World(TABLES, given_params, [*prompt, *made[:step]])
        expected = world.scores(tree)
        scale = max(1.0, *map(abs, expected.values()))
        if world.margin > 1e-4 * scale:
            agree(row, expected)


def test_agreeing_can_fail() -> None:
    row = torch.tensor([1.0, -torch.inf, 2.0])
    agree(row, {0: 1.0, 2: 2.0})
    for wrong in ({0: 1.0, 2: 2.001}, {0: 1.0}, {0: 1.0, 1: 0.0, 2: 2.0}):
        with pytest.raises(AssertionError):
            agree(row, wrong)


@law
@given(formulas)
def test_text_and_tree_give_each_other_and_one_plan(tree) -> None:
    written = text(tree)
    assert parse(written) == tree
    assert text(parse(written)) == written
    try:
        found = make_plan(written, NAMES)
    except FormulaError as error:
        assert "cancels out" in error.problem
        return
    assert make_plan(tree, NAMES) == found
    assert found.formula == written


@st.composite
def bracketed(draw: st.DrawFn, parts: list[Node]) -> Node:
    """The sum of the parts, in any order and with any brackets."""
    parts = list(draw(st.permutations(parts)))
    while len(parts) > 1:
        at = draw(st.integers(0, len(parts) - 2))
        parts[at : at + 2] = [Binary("+", parts[at], parts[at + 1])]
    return parts[0]


@law
@given(st.data(), st.lists(sums(MODELS, 3), min_size=1, max_size=5))
def test_plans_are_equal_under_order_and_brackets(data, parts) -> None:
    one, two = data.draw(bracketed(parts)), data.draw(bracketed(parts))
    for sign in ("", "-"):
        first, second = (Unary(sign, node) if sign else node for node in (one, two))
        try:
            found = make_plan(text(first), NAMES)
        except FormulaError as error:
            assert "cancels out" in error.problem
            with pytest.raises(FormulaError, match="cancels out"):
                make_plan(text(second), NAMES)
            continue
        assert make_plan(text(second), NAMES) == found


@law
@given(sums(MODELS), sums(MODELS))
def test_what_is_added_and_taken_away_was_never_there(tree, other) -> None:
    try:
        found = make_plan(text(tree), NAMES)
    except FormulaError:
        assume(False)
    there_and_back = Binary("-", Binary("+", tree, other), other)
    assert make_plan(text(there_and_back), NAMES) == found
    doubled = Binary("/", Binary("+", tree, tree), Number(Fraction(2)))
    assert make_plan(text(doubled), NAMES) == found


@law
@given(st.integers(2, 40), st.integers(0, 2**31), st.data())
def test_one_model_with_weight_one_is_that_model(size, seed, data) -> None:
    model = descant.TableModel.random(size, seed=seed)
    prompt = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    plainly = torch.log_softmax(model.table, -1)
    for formula in ("m", "1*m", "m + 0", "2*m - m", "a*m + (1 - a)*m"):
        params = {"a": 0.3} if "a" in formula else None
        decoder = descant.compile(formula, {"m": model}, params=params)
        [found] = decoder.generate(prompt, max_new_tokens=8)
        last = prompt[-1]
        for token in found.token_ids:
            assert token == int(model.table[last].argmax())
            last = token
        assert torch.equal(decoder.scores(prompt, [])[0], plainly[prompt[-1]])


@law
@given(
    formulas, st.lists(st.tuples(texts, params, st.integers(0, 99)), min_size=2, max_size=5),
    st.sampled_from([0.0, 1.0]), st.integers(1, 3),
)  # fmt: skip
def test_a_batch_is_its_rows(tree, rows, temperature, batch_size) -> None:
    decoder = compiled(tree)
    prompts, values, seeds = (list(column) for column in zip(*rows, strict=True))
    settings = {"max_new_tokens": 5, "temperature": temperature}
    lists = {name: [one[name] for one in values] for name in PARAMS}
    alone = []
    for prompt, one, seed in rows:
        try:
            alone += decoder.generate(prompt, params=one, seed=seed, **settings)
        except FormulaError as error:
            assume("every coefficient is 0" not in error.problem)
            raise
    together = decoder.generate(
        prompts, params=lists, seed=seeds, batch_size=batch_size, **settings
    )
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


PIECES = [
    *MODELS, *REWARDS, *PARAMS, "+", "-", "*", "/", "**", "(", ")", "|", ",", "=", ":", "@", "0",
    "1", "0.5", "1e9", "top_k", "rerank", "temperature", "max", "exp", "log", "k", "none", '"s"',
    "<", "and", "not", "where", "step", "mean", " ", "\n",
]  # fmt: skip
written = st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@settings(law, max_examples=400)
@example("base*log(a)", {"a": -1.0, "b": 0.0})
@example("base/a", {"a": -1.0, "b": 0.0})
@example("base*a**0.5", {"a": -1.0, "b": 0.0})
@example("base*exp(exp(exp(a*9)))", {"a": -1.0, "b": 0.0})
@given(written, params)
def test_any_text_is_a_formula_or_a_formula_error(formula, given_params) -> None:
    try:
        decoder = descant.compile(formula, LANES, params=dict.fromkeys(PARAMS, 0.5))
        scores = decoder.scores([3], [1], params=given_params)
    except FormulaError as error:
        assert error.problem and str(error)
        return
    except descant.ModelError:
        assert "@" in formula  # a table has no tokenizer, and cannot read a system prompt
        return
    assert not scores.isnan().any()
    assert (scores < math.inf).all()


@settings(law, max_examples=300)
@given(
    st.lists(st.sampled_from([*MODELS, "a", "b", "2", "0.5"]), min_size=2, max_size=9), st.data()
)
def test_any_well_formed_text_is_a_plan_or_a_formula_error(words, data) -> None:
    formula = words[0]
    for word in words[1:]:
        operator = data.draw(st.sampled_from(["+", "-", "*", "/", "**", " - -"]))
        formula = f"{formula}{operator}{word}"
        if data.draw(st.booleans()):
            formula = f"({formula})"
    try:
        found = make_plan(formula, NAMES)
    except FormulaError:
        return
    assert make_plan(found.formula, NAMES) == found
    for number, part in found.scores.parts:
        if isinstance(part, Read):
            [(again, _)] = make_plan(f"({number})*{part.term}", NAMES).scores.parts
            assert again == number
