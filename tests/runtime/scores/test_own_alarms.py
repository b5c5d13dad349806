"""What goes wrong in an operator or a stage of one's own: it is named, and its place marked."""

from __future__ import annotations

import pytest
import torch
from drawn_tokens import PROMPTS, V, tokens

import descant
from descant.errors import ArgumentError


def contrast_operator() -> None:
    @descant.operator
    def contrast(x: descant.Scores, y: descant.Scores, strength=1.0):
        """What x likes more than y does."""
        return x + strength * (x - y)


def test_nan_names_the_operator_and_its_place(compiled) -> None:
    @descant.operator
    def broken(x, y, by=1.0):
        return x + (by - 1).sqrt() * y

    formula = "base + 0.5*broken(base, arm, by=a)"
    with pytest.raises(descant.FormulaError) as caught:
        tokens(compiled(formula, params={"a": 1.0}), params={"a": [1, 2, 0.5, 1]})
    assert caught.value.problem == "broken gave NaN or infinity for row 2, token 0"
    assert str(caught.value).splitlines()[1:3] == [
        f"  {formula}", "             ^^^^^^^^^^^^^^^^^^^^^^^"
    ]  # fmt: skip
    assert len(tokens(compiled(formula, params={"a": 1.0}))) == len(PROMPTS)
    where = compiled("where(step < 2, base, broken(base, arm, by=0.5))")
    with pytest.raises(descant.FormulaError, match=r"for row \d, token 2"):
        tokens(where, draft="base", draft_length=4)
    assert len(tokens(where, max_new_tokens=2)) == len(PROMPTS)
    contrast_operator()
    with pytest.raises(descant.FormulaError) as caught:
        tokens(compiled("contrast(base, top_k(arm, 3))"))
    assert caught.value.cure.endswith("x.masked_fill(y == -math.inf, -math.inf)")


def test_nan_names_a_stage_and_its_place(compiled) -> None:
    @descant.stage
    def torn(scores, by=1.0):
        return scores * (by - 1).sqrt()

    with pytest.raises(descant.FormulaError) as caught:
        tokens(compiled("base | torn(by=a)", params={"a": 1.0}), params={"a": [1, 2, 2, 0.5]})
    assert caught.value.problem == "torn gave NaN or infinity for row 3, token 0"
    assert str(caught.value).splitlines()[2] == "         ^^^^^^^^^^"


def test_a_row_that_does_not_want_it_has_no_alarm(compiled) -> None:
    @descant.operator
    def broken(x, by=1.0):
        return x + (by - 1).sqrt()

    decoder = compiled("(1 - a)*broken(base, by=a) + arm", params={"a": 1.0})
    assert len(tokens(decoder, params={"a": [1, 1, 2, 1]})) == len(PROMPTS)
    with pytest.raises(descant.FormulaError, match="row 1"):
        tokens(decoder, params={"a": [1, 0.5, 2, 1]})


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (lambda x: x[:, :2], r"returned float32 \(4, 2\), not float32 scores \(4, 300\)"),
        (lambda x: x.double(), r"returned float64 \(4, 300\), not float32"),
        (lambda x: x.add_(1), r"writes to x, which others read; begin with x = x.clone\(\)"),
        (lambda x: (x, None), r"returned a tuple"),
    ],
)
def test_what_a_trial_does_not_see_is_said_in_a_step(compiled, made, problem) -> None:
    @descant.operator
    def own(x):
        return made(x) if x.shape[1] == V else x

    with pytest.raises(ArgumentError, match=f"the operator own {problem}"):
        tokens(compiled("own(base)"))


def test_states_that_differ_in_shape_are_said(compiled) -> None:
    @descant.operator(state=lambda: torch.zeros(1))
    def grows(x, *, state, ids):
        more = max(len(each) for each in ids)
        return x, torch.zeros(len(ids), more)

    with pytest.raises(ArgumentError, match=r"the states of grows do not stack: .*into a list"):
        tokens(compiled("grows(base)"), [[1, 2], [3]], batch_size=1, max_new_tokens=2)
        tokens(compiled("grows(base)"), batch_size=2, eos_token_id=[*range(0, V, 4)])


def test_an_error_of_the_function_says_where(compiled) -> None:
    @descant.operator
    def fails(x):
        if x.shape[1] == V:
            raise KeyError("nothing")
        return x

    with pytest.raises(KeyError) as caught:
        tokens(compiled("fails(base)"))
    assert caught.value.__notes__ == ["in the operator fails"]
