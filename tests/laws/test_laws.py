"""Laws that hold for every formula, over tables small enough to compute by walking the tree."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from interpreter import MODELS, PARAMS, REWARDS, World
from random_formulas import OPERATORS, formulas, linear, operators, scores, sums, sums_of, values

import descant
from descant import FormulaError
from descant.formula import Names, Read, make_plan
from descant.grammar import Binary, Name, Node, Number, Pipeline, Unary, parse, text
from descant.runtime.loops import loglikelihood as teacher

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


# What a well-formed formula may still be refused for, and only that.
UNDECIDED = ("cancels out", "every coefficient is 0")
UNDEFINED = (
    *UNDECIDED, "the sum of the coefficients must be above 0", "every weight of",
    "is not above 0", "is not a finite number",
)  # fmt: skip


def compiled(tree: Node) -> descant.Decoder:
    """A decoder of a formula in which something is left to decide."""
    try:
        return descant.compile(text(tree), LANES, params=dict.fromkeys(PARAMS, 1.0))
    except FormulaError as error:
        assume(not any(said in error.problem for said in UNDEFINED))
        raise


def agree(found: torch.Tensor, expected: dict[int, float], scale: float = 1.0) -> None:
    """One row of scores is what the interpreter says, to float32's rounding."""
    kept = found.isfinite().nonzero()[:, 0].tolist()
    assert kept == sorted(expected)
    scale = max(scale, *map(abs, expected.values()))
    assert [found[token].item() for token in kept] == pytest.approx(
        [expected[token] for token in kept], abs=2e-5 * scale
    )


def hold(tree: Node, given_params: dict[str, float], prompt: list[int], made: list[int]) -> int:
    """Hold the compiled step against the interpreter; how many of its rows were compared."""
    decoder = compiled(tree)
    try:
        found = decoder.scores(prompt, made, params=given_params)
    except FormulaError as error:
        assume(not any(said in error.problem for said in UNDEFINED))
        assert "every token is excluded" in error.problem, error
        step = int(error.problem.rpartition(" ")[2])
        world = World(TABLES, given_params, [*prompt, *made[:step]], step)
        nothing = not world.scores(tree)
        assert nothing or world.margin < 1e-4 * world.scale
        return int(nothing)
    compared = 0
    for step, row in enumerate(found):
        world = World(TABLES, given_params, [*prompt, *made[:step]], step)
        expected = world.scores(tree)
        assert not row.isnan().any() and not (row == math.inf).any()
        if world.margin > 1e-4 * world.scale:
            agree(row, expected, world.scale)
            compared += 1
    return compared


@settings(law, max_examples=250)
@given(linear | formulas, params, texts, texts)
def test_the_step_is_what_the_tree_says(tree, given_params, prompt, made) -> None:
    hold(tree, given_params, prompt, made)


@pytest.mark.parametrize("name", OPERATORS)
@settings(law, max_examples=40)
@given(st.data(), params, texts, texts)
def test_each_operator_is_what_the_tree_says(name, data, given_params, prompt, made) -> None:
    hold(data.draw(operators(3, (name,))), given_params, prompt, made)


# Each with values of a and b, and tokens that are not excluded after the text 3.
CORNERS = [
    ("base - 0.5*top_p(arm, 0.5)", 0, 0), ("base - a*top_k(arm, 3)", 0, 0),
    ("base - a*top_k(arm, 3)", 1, 0), ("top_k(base, 5) - top_k(base, 5) + arm", 0, 0),
    ("max(top_k(base, 2), top_k(arm, 2))", 0, 0), ("min(top_k(base, 8), top_k(arm, 8))", 0, 0),
    ("max(min(top_k(base, 1), top_k(arm, 1)), arm2)", 0, 0),
    ("max(temp(min(top_k(base, 1), top_k(arm, 1)), 2), arm2)", 0, 0),
    ("mix(0.5: min(top_k(base, 1), top_k(arm, 1)), 0.5: arm2)", 0, 0),
    ("where(max_prob(min(top_k(base, 1), top_k(arm, 1))) > 2, base, arm)", 0, 0),
    ("mix(0: base, a: arm)", 1, 0), ("mix(a: base, b: arm)", 0, 0.5),
    ("base + a*mix(b: base, b: arm)", 0, 0), ("base + a*pmean(0; b: base, b: arm)", 0, 0),
    ("pmean(-1; 0.3: top_k(base, 4), 0.7: arm)", 0, 0),
    ("pmean(1; 0.3: top_k(base, 4), 0.7: arm)", 0, 0), ("pmean(a; 0.5: base, 0.5: arm)", 0, 0),
    ("pmean(2; 0: top_k(base, 4), 0.7: arm)", 0, 0), ("pmean(a; 1: base, 2: arm)", 1, 0),
    ("pmean(1e-12; 0.25: base, 0.75: arm)", 0, 0), ("pmean(-1e-9; 0.3: base, 0.7: arm)", 0, 0),
    ("pmean(0.00099; 0.3: base, 0.7: arm)", 0, 0), ("pmean(1e-30; 0.3: base, 0.7: arm)", 0, 0),
    ("pmean(0; 2: base, 1: arm)", 0, 0), ("mean(base - 0.6*arm)", 0, 0),
    ("mean(base + a*arm + 7)", 2, 0), ("mean(mean(top_k(base, 3) + arm))", 0, 0),
    ("debias(top_k(base, 4), top_k(arm, 6), 10)", 0, 0), ("debias(base, arm, 0)", 0, 0),
    ("plausible(2*base + arm, 0.5)", 0, 0), ("plausible(base, 0) + plausible(arm, 1)", 0, 0),
    ("where(not step < 2 or entropy(base) > 5, top_k(base, 3), arm)", 0, 0),
    ("where(-step + 2 > a*2, base, where(1 <= step, arm, arm2))", 0.5, 0),
    ("where(a < b, base, arm) - where(a < b, base, arm) + arm2", 0, 1),
    ("max(a*base, arm)", 0, 0), ("max(a*base + b*arm, b*arm) + base", 0, 0),
    ("base + a*temp(b*arm + base, 2)", 1, 0), ("base + a*temp(b*arm + base, 2)", 0, 1),
    ("base | rerank(a*rm + 2, k=3, w=1.5, keep=all)", 0, 0),
    ("base | rerank(a*rm, k=3, clamp=(1, 2), keep=all)", 0, 0),
    ("base | rerank(a*rm, k=3, clamp=(1, 2), keep=all, norm=minmax)", 0, 0),
    ("top_k(base, 3) | rerank(rm, k=5, norm=center, keep=all)", 0, 0),
    ("top_k(base, 3) | rerank(rm, k=5, norm=minmax) | rerank(rm2, k=2, norm=prefix)", 0, 0),
    ("max((base | rerank(rm, k=3)), (arm | rerank(rm, k=3, keep=all)))", 0, 0),
    ("(1 + js(base, arm))*base - js(base, arm)*arm", 0, 0), ("base + 0.9**step*arm", 0, 0),
    ("base + a*entropy(base)*arm", 0, 0), ("base + a*entropy(base)*arm", -1, 0),
    ("base + a*kl(base, arm)*top_p(arm, 0.5) - sqrt(entropy(arm))*arm2", 2, 0),
    ("base*entropy(top_k(arm, 1)) + arm2 - entropy(top_k(arm, 1))*top_k(arm, 2)", 0, 0),
    ("mix(max_prob(base): base, 1 - max_prob(base): arm)", 0, 0),
    ("where(a < step, base + max_prob(arm)*arm, max_prob(arm)*arm2 + step)", 0.5, 0),
    ("(base | temperature(exp(-step) + a) | top_k(2 + step)) + entropy(base + arm)*arm2", 1, 0),
    ("mean(base + entropy(entropy(arm)*(base + arm))*arm)", 0, 0), ("2**-entropy(arm)*base", 0, 0),
    ("base | rerank(entropy(base)*rm - step, k=4, w=max_prob(arm), clamp=(-step, 1))", 0, 0),
    ("base | temperature(0.5 + 0.1*entropy(arm)) | top_p(max_prob(arm2))", 0, 0),
    ("(base | rerank(rm, k=4)) + 2*(base | rerank(rm, k=4)) | rerank(rm2, k=2)", 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("formula", "a", "b"), CORNERS)
def test_corners_are_what_the_tree_says(formula, a, b) -> None:
    for prompt in ([3], [1, 4], [5, 5]):
        assert hold(parse(formula), {"a": a, "b": b}, prompt, [2, 0, 9])


@pytest.mark.parametrize(
    "formula",
    [
        "min(top_k(base, 1), top_k(arm, 1))", "top_k(base, 1) + top_k(arm, 1)",
        "temp(top_k(base, 1) - top_k(arm, 1), 2)",
        "min(top_k(base, 1), top_k(arm, 1)) | rerank(rm, k=4, norm=center, keep=all)",
    ],
)  # fmt: skip
def test_a_step_that_excludes_every_token_says_so(formula) -> None:
    decoder = descant.compile(formula, LANES)
    for act in (lambda: decoder.scores([2], []), lambda: decoder.generate([[3], [2]])):
        with pytest.raises(FormulaError, match="every token is excluded"):
            act()


@pytest.mark.parametrize("name", ["mean", "temp", "max"])
def test_nesting_costs_no_more_than_its_length(name) -> None:
    """Work that doubled with every level would take minutes here."""
    formula, rest = "base", {"mean": ")", "temp": ", 2)", "max": ", arm)"}[name]
    for _ in range(24):
        formula = f"{name}({formula}{rest}"
    start = time.perf_counter()
    assert make_plan(formula, NAMES).formula == formula
    assert time.perf_counter() - start < 2


def test_a_mix_of_a_row_is_not_its_neighbours() -> None:
    """One row has a weight on a term that the other leaves out, each behind another number."""
    formula = "base + a*temp(b*arm + base, 2) - (1 - a)*mix(b: arm2, 1: arm)"
    decoder = descant.compile(formula, LANES, params={"a": 1, "b": 1})
    values = {"a": [0, 1, 1, 0], "b": [1, 0, 1, 0]}
    together = decoder.generate([[2]] * 4, params=values, max_new_tokens=6)
    for i, found in enumerate(together):
        one = {name: column[i] for name, column in values.items()}
        [alone] = decoder.generate([2], params=one, max_new_tokens=6)
        assert found.token_ids == alone.token_ids


@pytest.mark.parametrize("p", [1e-12, -1e-7, 1e-4, -0.0003])
def test_weights_that_do_not_add_up_to_one_leave_the_differences_their_digits(p) -> None:
    """Near 0 the constant log(W)/p has no bounds, and every token has it."""
    table = [[1.0 * n, 0.1 * n] for n in range(2)]
    models = {name: descant.TableModel(torch.tensor(table) * by) for name, by in
              (("base", 1.0), ("arm", -4.0))}  # fmt: skip
    near, limit = (
        descant.compile(f"pmean({power}; 1: base, 2: arm)", models).scores([1], [])[0]
        for power in (f"{p:.12f}", "0")
    )
    assert (near[0] - near[1]).item() == pytest.approx((limit[0] - limit[1]).item(), abs=2e-3)


def test_agreeing_can_fail() -> None:
    row = torch.tensor([1.0, -torch.inf, 2.0])
    agree(row, {0: 1.0, 2: 2.0})
    for wrong in ({0: 1.0, 2: 2.001}, {0: 1.0}, {0: 1.0, 1: 0.0, 2: 2.0}):
        with pytest.raises(AssertionError):
            agree(row, wrong)


@settings(law, max_examples=120)
@given(linear | formulas)
def test_text_and_tree_give_each_other_and_one_plan(tree) -> None:
    written = text(tree)
    assert parse(written) == tree
    assert text(parse(written)) == written
    try:
        found = make_plan(written, NAMES)
    except FormulaError as error:
        assert any(said in error.problem for said in UNDEFINED), error
        return
    assert make_plan(tree, NAMES) == found
    assert found.formula == written


# A formula that ends in stages is no sum: (base | top_k(3)) + 0 gives its scores by another plan.
unstaged = sums(MODELS) | scores(3).filter(lambda node: not isinstance(node, Pipeline))


@st.composite
def bracketed(draw: st.DrawFn, parts: list[Node]) -> Node:
    """The sum of the parts, in any order and with any brackets."""
    parts = list(draw(st.permutations(parts)))
    while len(parts) > 1:
        at = draw(st.integers(0, len(parts) - 2))
        parts[at : at + 2] = [Binary("+", parts[at], parts[at + 1])]
    return parts[0]


@law
@given(
    st.data(),
    st.lists(sums_of(st.sampled_from(MODELS).map(Name) | operators(3), 3), max_size=5, min_size=1),
)
def test_plans_are_equal_under_order_and_brackets(data, parts) -> None:
    one, two = data.draw(bracketed(parts)), data.draw(bracketed(parts))
    for sign in ("", "-"):
        first, second = (Unary(sign, node) if sign else node for node in (one, two))
        try:
            found = make_plan(text(first), NAMES)
        except FormulaError as error:
            assert any(said in error.problem for said in UNDEFINED), error
            with pytest.raises(FormulaError):
                make_plan(text(second), NAMES)
            continue
        assert make_plan(text(second), NAMES) == found


@law
@given(unstaged, unstaged)
def test_what_is_added_and_taken_away_was_never_there(tree, other) -> None:
    try:
        found = make_plan(text(tree), NAMES)
    except FormulaError:
        assume(False)
    there_and_back = Binary("-", Binary("+", tree, other), other)
    try:
        assert make_plan(text(there_and_back), NAMES) == found
    except FormulaError as error:  # the other is no formula by itself
        assert any(said in error.problem for said in UNDEFINED), error
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
    linear | formulas,
    st.lists(st.tuples(texts, params, st.integers(0, 99)), min_size=2, max_size=5),
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
            assume(not any(said in error.problem for said in UNDEFINED))
            assert "every token is excluded" in error.problem, error
            assume(False)
    together = decoder.generate(
        prompts, params=lists, seed=seeds, batch_size=batch_size, **settings
    )
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


@settings(law, max_examples=40)
@given(
    linear | formulas, st.lists(st.tuples(texts, params, texts), min_size=1, max_size=5),
    st.integers(1, 3), st.sampled_from([1, 2 * V, 2**20]),
)  # fmt: skip
def test_given_texts_in_batches_are_those_texts_alone(tree, rows, batch_size, floats) -> None:
    decoder = compiled(tree)
    alone = []
    for prompt, one, made in rows:
        try:
            scores = decoder.scores(prompt, made[:-1], params=one)
        except FormulaError as error:
            assert any(said in error.problem for said in (*UNDEFINED, "every token is excluded"))
            assume(False)
        spread = torch.log_softmax(scores.double(), -1)
        alone.append([spread[i, token].item() for i, token in enumerate(made)])
    prompts, values, completions = (list(column) for column in zip(*rows, strict=True))
    lists = {name: [one[name] for one in values] for name in PARAMS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "FLOATS", floats)
        found = decoder.loglikelihood(prompts, completions, params=lists, batch_size=batch_size)
    for one, expected in zip(found, alone, strict=True):
        assert one.logprobs == pytest.approx(expected, abs=1e-5, rel=1e-5)


PIECES = [
    *MODELS, *REWARDS, *PARAMS, "+", "-", "*", "/", "**", "(", ")", "|", ",", "=", ":", "@", "0",
    "1", "0.5", "1e9", "top_k", "rerank", "temperature", "max", "exp", "log", "k", "none", '"s"',
    "<", "and", "not", "where", "step", "mean", "mix", "pmean", ";", "top_p", "debias", "entropy",
    "norm", "clamp", "keep", "all", " ", "\n",
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
