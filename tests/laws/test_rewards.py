"""Reward expressions: what the tree says, of every row of a batch, in one form for all writings."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_formulas import reranks, rewards, scalars, values
from test_laws import LANES, NAMES, UNDEFINED, agree, hold, law, params, texts

import descant
from descant import FormulaError
from descant.formula import make_plan, make_reward
from descant.formula.algebra.liveness import weighed_terms
from descant.grammar import Binary, Call, Name, Pipeline, parse, text

ROWS = 3
per_row = st.lists(params, min_size=ROWS, max_size=ROWS)


@settings(law, max_examples=80)
@given(reranks(), params, texts, texts)
def test_the_step_is_what_the_tree_says(stage, given_params, prompt, made) -> None:
    hold(Pipeline(Name("base"), (stage,)), given_params, prompt, made)


@settings(law, max_examples=50)
@given(rewards, per_row, st.integers(0, 10))
def test_a_row_is_not_its_neighbours(reward, rows, token) -> None:
    """Scores of a batch of rows with parameters of their own, against each alone."""
    formula = f"base | rerank(a*({text(reward)}) + b*rm2*answer_length, k=11)"
    try:
        decoder = descant.compile(formula, LANES, params={"a": 1, "b": 1})
    except FormulaError as error:
        assert any(said in error.problem for said in UNDEFINED), error
        return
    columns = {name: [row[name] for row in rows] for name in "ab"}
    try:
        together = decoder.generate([[token]] * ROWS, params=columns, max_new_tokens=4, seed=1)
    except FormulaError as error:
        assert "finite" in error.problem, error
        return
    for row, completion in zip(rows, together, strict=True):
        [alone] = decoder.generate([token], params=row, max_new_tokens=4, seed=1)
        assert completion.token_ids == alone.token_ids


@law
@given(rewards, rewards, scalars)
def test_every_way_of_writing_it_is_one_plan(one, two, by) -> None:
    """A sum in any order, with factors in or out of its brackets, and what cancels left out."""
    a, b, c = map(text, (one, two, by))
    ways = (f"({c})*(({a}) + ({b}))", f"({c})*({b}) + ({a})*({c})",
            f"({a}) - ({b})/4 - (({a}) - ({c})*(({a}) + ({b}))) + 0.25*({b})")  # fmt: skip
    plans = []
    for way in ways:
        try:
            plans.append(make_plan(f"base | rerank({way})", NAMES))
        except FormulaError as error:
            assert any(said in error.problem for said in UNDEFINED), error
            return
    assert plans[0] == plans[1] == plans[2]
    again = make_plan(f"base | rerank({plans[0].stages[0].reward})", NAMES)
    assert again == plans[0]


@law
@given(rewards, params, st.lists(values, min_size=3, max_size=3))
def test_an_expression_alone_is_worked_out_in_floats(reward, given_params, said) -> None:
    """By ``RewardExpression``, against Python's own arithmetic of its text."""
    alone = make_reward(text(reward), NAMES)
    names = {"max": max, "min": min, "abs": abs, "exp": math.exp, "log": math.log,
             "sqrt": math.sqrt, "sigmoid": lambda x: 1 / (1 + math.exp(-x))}  # fmt: skip
    own = {**given_params, "rm": said[0], "rm2": said[1], "answer_length": 3.0}
    expected = eval(text(reward), {"__builtins__": {}}, {**names, **own})
    terms = {term: own[term.model] for term in alone.terms}
    found = alone.value(terms, answer_length=3, params=given_params)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("reward", "weighed"),
    [
        ("(1 - a)*rm + a*rm2", {0.0: {"rm"}, 1.0: {"rm2"}, 0.5: {"rm", "rm2"}}),
        ("max(a*rm, rm2)", {0.0: {"rm2"}, 1.0: {"rm", "rm2"}}),
        ("((1 - a)*rm + a*rm2)*rm2", {0.0: {"rm", "rm2"}, 1.0: {"rm2"}}),
        ("a*min(rm, rm2)/(1 + abs(rm)) + rm2", {0.0: {"rm2"}, 1.0: {"rm", "rm2"}}),
        ("rm**a*rm2", {0.0: {"rm2"}, 2.0: {"rm", "rm2"}}),
        ("sigmoid((rm - rm2)*a) + rm2", {0.0: {"rm2"}, 1.0: {"rm", "rm2"}}),
    ],
)
def test_what_a_row_multiplies_by_0_is_not_run_and_may_be_nan(reward, weighed) -> None:
    formula = f"base | rerank({reward}, k=11)"
    plan = make_plan(formula, NAMES)
    for a, terms in weighed.items():
        found = weighed_terms(plan, plan.stages[0].reward, plan.values({"a": a}))
        assert {str(term) for term in found} == terms
    nan = descant.RuleReward(torch.full((11, 11), torch.nan))
    right = descant.compile(formula, LANES, params={"a": 1})
    broken = descant.compile(formula, {**LANES, "rm": nan}, params={"a": 1})
    rows = [a for a, terms in weighed.items() if "rm" not in terms]
    for a in rows:
        expected = right.scores([1], [2], params={"a": a})
        assert torch.equal(broken.scores([1], [2], params={"a": a}), expected)
    [other, *_] = weighed.keys() - rows
    together = {"a": [*rows, other]}
    with pytest.raises(FormulaError, match=f"for row {len(rows)}, token 0"):
        broken.generate([[1]] * (len(rows) + 1), params=together, max_new_tokens=3)


WRONG = [
    ("log(rm)", "the reward of rerank, log(rm), is not a finite number for row 1, token 0"),
    ("1/(answer_length - 1) + rm", "is not a finite number for row 0, token 0"),
    ("sqrt(rm - 5)", "sqrt(rm - 5), is not a finite number for row"),
]


@pytest.mark.parametrize(("reward", "problem"), WRONG)
def test_a_value_that_is_no_number_is_marked_where_it_is_written(reward, problem) -> None:
    table = torch.full((11, 11), 1.0)
    table[3] = -1.0  # after the second prompt
    decoder = descant.compile(
        f"base | rerank({reward}, k=3)", {**LANES, "rm": descant.RuleReward(table)}
    )
    with pytest.raises(FormulaError) as caught:
        decoder.generate([[1], [3]], max_new_tokens=1)
    error = caught.value
    assert problem in error.problem
    assert error.text[slice(*error.span)] == reward
    assert "max(r, 0.001)" in error.cure


def test_norm_and_clamp_act_on_the_value() -> None:
    """With ``prefix``, the answer is one token shorter before."""
    decoder = descant.compile(
        "base | rerank(rm*answer_length, k=11, norm=prefix, clamp=(-0.5, 2))", LANES
    )
    prompt, made = [4], [7, 1]
    plain = descant.compile("base", LANES).scores(prompt, made)
    rm = LANES["rm"].table.double()
    for step, row in enumerate(decoder.scores(prompt, made)):
        before, last = [*([4] * 2), *made][step : step + 2]
        read = rm[before, last] * max(step, 1)
        added = (rm[last] * (step + 1) - read).clamp(-0.5, 2)
        agree(row, dict(enumerate((plain[step] + added).tolist())))


def test_the_interpreter_sees_what_differs() -> None:
    """A rule that leaves the candidate out of the answer's length is found out."""
    tree = parse("base | rerank(rm/answer_length, k=11)")
    assert hold(tree, {"a": 0, "b": 0}, [3], [2, 0])
    stage = tree.stages[0]
    wrong = parse("base | rerank(rm/(answer_length + 1), k=11)")
    found = descant.compile(text(wrong), LANES).scores([3], [2])[1]
    right = descant.compile(text(Pipeline(Name("base"), (stage,))), LANES).scores([3], [2])[1]
    with pytest.raises(AssertionError):
        agree(found, dict(enumerate(right.tolist())))
    assert isinstance(stage, Call) and isinstance(stage.arguments[0].value, Binary)
