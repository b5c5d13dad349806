"""A word of the language is one only where a parenthesis follows; elsewhere it may be declared."""

from __future__ import annotations

import pytest

import descant
from descant.errors import ArgumentError
from descant.formula import Names, make_plan
from descant.formula.names import STATE
from descant.formula.words.operators import OPERATORS, STAGED
from descant.formula.words.stages import STAGES

WORDS = sorted(
    {*OPERATORS, *STAGES, *STAGED, "exp", "log", "sqrt", "abs", *STATE} - {"step", "thinking"}
)


@pytest.mark.parametrize("word", WORDS)
def test_a_model_and_a_parameter_may_have_it(word) -> None:
    as_model = Names(frozenset((word, "base")), frozenset("a"))
    assert [term.model for term in make_plan(f"a*{word} + base", as_model).terms] == [
        *sorted(("base", word))
    ]
    as_param = Names(frozenset(("base", "arm")), frozenset((word,)))
    assert make_plan(f"base + {word}*arm", as_param).params == {word}


def test_both_in_one_formula() -> None:
    table = descant.TableModel.random(9, seed=1)
    models = {"mix": table, "top_k": descant.TableModel.random(9, seed=2)}
    formula = "mix(0.5: mix, 0.5: top_k) + entropy*entropy(mix)*top_k | top_k(3)"
    decoder = descant.compile(formula, models, params={"entropy": 0.5})
    plain = {"x": models["mix"], "y": models["top_k"]}
    same = descant.compile(
        "mix(0.5: x, 0.5: y) + a*entropy(x)*y | top_k(3)", plain, params={"a": 0.5}
    )
    assert decoder.scores([1], [2]).equal(same.scores([1], [2]))


@pytest.mark.parametrize("word", ["step", "thinking", "answer_length", "none", "and", "or", "not"])
def test_what_is_a_word_by_itself_is_not_declared(word) -> None:
    for names in ({"models": frozenset((word,))}, {"params": frozenset((word,))}):
        with pytest.raises(ArgumentError, match="has the name of a built-in"):
            Names(**names)
