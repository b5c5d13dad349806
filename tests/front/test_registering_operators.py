"""Registering an operator: its signature, what a trial finds, and how mistakes are told."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import torch

import descant
from descant import lang
from descant.errors import ArgumentError
from descant.formula import Names, make_plan
from descant.formula.printer import written_product
from descant.formula.words.operators import OPERATORS

MODELS = {
    "base": descant.TableModel.random(12, seed=4),
    "arm": descant.TableModel.random(12, seed=5),
}

NAMES = Names(frozenset(MODELS), frozenset("a"))


def contrast_operator() -> Any:
    @descant.operator
    def contrast(x: descant.Scores, y: descant.Scores, strength=1.0, turns: int = 1):
        """What x likes more than y does.

        And more.
        """
        return x + strength * turns * (x - y)

    return contrast


def compiled(formula: Any, **more: Any) -> Any:
    return descant.compile(formula, MODELS, **more)


def test_it_stays_a_function() -> None:
    contrast = contrast_operator()
    assert contrast(3.0, 1.0, 2.0) == 7.0
    assert OPERATORS["contrast"].__doc__ == "What x likes more than y does."


@pytest.mark.parametrize(
    ("formula", "problem", "marked", "cure"),
    [
        ("contrst(base, arm)", "there is no operator contrst", "contrst", "did you mean contrast?"),
        ("contrast(base)", "contrast needs its argument y", "contrast(base)",
         "write contrast(x, y, strength=1, turns=1)"),
        ("contrast(base, 2)", "y of contrast takes scores, and 2 is a number", "2", "write a"),
        ("contrast(base, arm, arm)", "strength of contrast takes a number, and arm is a model",
         "arm)", "write a number"),
        ("contrast(base, arm, strenth=2)", "contrast has no argument strenth", "strenth",
         "did you mean strength?"),
        ("contrast(base, arm, 1, 2, 3)", "contrast takes at most 4 arguments", "3", "write contr"),
        ("contrast(base, arm, turns=0.5)", "turns of contrast must be a whole number, not 0.5",
         "0.5", ""),
        ("base | contrast(arm)", "there is no stage contrast", "contrast", ""),
        ("contrast", "contrast needs its arguments", "contrast", "write contrast(…) with"),
        ("contrast(base, arm)*base", "a formula may scale a model, not multiply two models",
         "contrast(base, arm)*base", "write contrast(base, arm) + base"),
        ("base | rerank(contrast(base, arm))", "contrast is an operator on scores, and inside",
         "contrast(base, arm)", "write a function of rewards"),
    ],
)  # fmt: skip
def test_mistakes_in_a_formula_are_marked(formula, problem, marked, cure) -> None:
    contrast_operator()
    with pytest.raises(descant.FormulaError) as caught:
        compiled(formula)
    assert caught.value.problem.startswith(problem)
    assert caught.value.cure.startswith(cure)
    start = caught.value.span.start
    assert formula[start:].startswith(marked)


def test_limits_are_those_of_the_annotation() -> None:
    @descant.operator
    def fades(
        x,
        y,
        *,
        share: Annotated[float, descant.Limits(low=0, high=1)],
        least: Annotated[int, descant.Limits(low=2)] = 3,
    ):
        return (1 - share) * x + share * y

    base, arm = (compiled(name).scores([3], []) for name in ("base", "arm"))
    found = compiled("fades(base, arm, a)", params={"a": 0.25}).scores([3], [])
    torch.testing.assert_close(found, 0.75 * base + 0.25 * arm)
    for formula, problem in {
        "fades(base, arm)": "fades needs its argument share",
        "fades(base, arm, 1.5)": "share of fades must be at most 1, not 1.5",
        "fades(base, arm, 0.5, least=1)": "least of fades must be at least 2, not 1",
        "fades(base, arm, 0.5, least=2.5)": "least of fades must be a whole number, not 2.5",
    }.items():
        with pytest.raises(descant.FormulaError) as caught:
            compiled(formula)
        assert caught.value.problem == problem
    decoder = compiled("fades(base, arm, a)", params={"a": 0.25})
    with pytest.raises(descant.FormulaError, match="share of fades must be at most 1, not 2"):
        decoder.generate([[3]], params={"a": 2})
    with pytest.raises(descant.FormulaError, match="share of fades, 3\\*entropy"):
        compiled("fades(base, arm, 3*entropy(base))").generate([[3]])


def test_the_plan_is_a_formula_again() -> None:
    contrast_operator()
    formula = "contrast(base, arm + arm, a) - 0.5*contrast(base, arm)"
    first = "contrast(base, 2*arm, strength=a, turns=1)"
    second = "(-0.5)*contrast(base, arm, strength=1, turns=1)"
    plan = make_plan(formula, NAMES)
    assert {written_product(*part) for part in plan.scores.parts} == {first, second}
    decoder = compiled(formula, params={"a": 2})
    again = compiled(f"{first} + {second}", params={"a": 2})
    assert torch.equal(again.scores([3], []), decoder.scores([3], []))
    printed = str(decoder.plan)
    assert "1 in contrast(…)" in printed and "normalised  arm, base: by log-softmax" in printed


def test_like_operators_are_collected() -> None:
    contrast_operator()
    doubled = make_plan("contrast(base, arm) + contrast(base, arm, 1, 1)", NAMES)
    assert doubled == make_plan("2*contrast(base, arm)", NAMES)
    gone = make_plan("contrast(base, arm) - contrast(base, arm) + base", NAMES)
    assert gone == make_plan("base", NAMES)


def test_an_expression_may_have_it() -> None:
    contrast_operator()
    base, arm, a = lang.model("base"), lang.model("arm"), lang.param("a")
    formula = lang.contrast(base, arm, strength=a) + 0.5 * base
    assert str(formula) == "contrast(base, arm, strength=a) + 0.5*base"
    assert formula == "contrast(base, arm, strength=a) + 0.5*base"
    values = [compiled(each, params={"a": 1}).scores([3], []) for each in (formula, str(formula))]
    assert torch.equal(*values)

    @descant.stage
    def sharpen(scores, power=2.0):
        return scores * power

    assert str(formula | lang.sharpen(power=2)) == f"{formula} | sharpen(power=2)"
    with pytest.raises(AttributeError, match=r"no attribute 'contrst'"):
        lang.contrst  # noqa: B018


def test_inspect_shows_it_as_an_operator() -> None:
    @descant.operator(state=lambda: torch.zeros(()))
    def rising(x, y, by=0.5, *, state):
        return x + state[:, None] * y, state + by[:, 0]

    decoder = compiled("rising(base, arm, a) + 0.5*arm", params={"a": 1.0})
    inspection = decoder.inspect([3], max_new_tokens=4)
    kinds = {part.name: part.kind for part in inspection.parts}
    assert kinds == {"arm": "term", "rising(base, arm, by=a)": "operator"}
    at = next(i for i, part in enumerate(inspection.parts) if part.kind == "operator")
    text = [3]
    for step, choice in enumerate(inspection.tokens):
        x, y = (MODELS[name].table[text[-1]].log_softmax(-1) for name in ("base", "arm"))
        for candidate in choice.candidates:
            expected = float(x[candidate.id] + step * y[candidate.id])
            assert candidate.contributions[at] == pytest.approx(expected, abs=1e-4)
        text.append(choice.id)


# What a trial finds.


def whole(x, y):
    return x - x.mean()


def flipped(x, y):
    return x.flip(0)


def drawn(x, y):
    return x + torch.rand_like(x)


def of_the_first(x, y, strength=1.0):
    return x + strength[0] * y


def of_the_first_whole(x, y, *, turns: Annotated[int, descant.Limits(low=1, high=4)]):
    return x + turns.amax() * y


def torn(x, y):
    return (x - 1).sqrt()


def infinite(x, y):
    return x - y * 1e39


def cut(x, y):
    return x[:, 1:]


def summed(x, y):
    return x.sum(-1, keepdim=True)


def double(x, y):
    return x.double() + y


def ranked(x, y):
    return x.argsort(-1)


def nothing(x, y):
    return None


def written(x, y):
    return x.add_(y)


def written_number(x, y, strength=2.0):
    strength *= 2
    return x * strength


def of_one_size(x, y):
    return x + torch.zeros(9)


def unpacked(x, y, *, state):
    return x


def unequal(x, y, *, state):
    return x, state[:1]


def mixed(x, y, *, state):
    return x + state, state.roll(1, 0) + x


ZEROS = {"state": lambda: torch.zeros(1)}


@pytest.mark.parametrize(
    ("function", "more", "problem"),
    [
        (whole, {}, "whole gives a row other scores beside another row than alone; treat each row"),
        (flipped, {}, "flipped gives a row other scores beside another row than alone"),
        (drawn, {}, "drawn gives a row other scores beside another .* draw nothing at random"),
        (of_the_first, {}, "of_the_first gives a row other scores beside another row than alone"),
        (of_the_first_whole, {}, "of_the_first_whole gives a row other scores beside another row"),
        (torn, {}, "torn gives NaN or infinity for finite scores"),
        (infinite, {}, "infinite gives NaN or infinity for finite scores"),
        (cut, {}, r"cut returned float32 \(2, 6\), not float32 scores \(2, 7\)"),
        (summed, {}, r"summed returned float32 \(2, 1\), not float32 scores \(2, 7\)"),
        (double, {}, r"double returned float64 \(2, 7\), not float32 scores \(2, 7\)"),
        (ranked, {}, r"ranked returned int64 \(2, 7\), not float32 scores \(2, 7\)"),
        (nothing, {}, r"nothing returned a NoneType, not float32 scores \(2, 7\)"),
        (written, {}, r"written writes to x, which others read; begin with x = x.clone\(\)"),
        (written_number, {}, "written_number writes to strength, which others read"),
        (of_one_size, {}, "of_one_size fails on two rows of 7 tokens: .*; give vocabulary= where"),
        (unpacked, ZEROS, r"unpacked keeps a state; return \(scores, state\)"),
        (unequal, ZEROS, r"unequal returned the state float32 \(1, 1\); return it as it came"),
        (mixed, {"state": lambda: torch.zeros(7), "vocabulary": 7},
         "mixed gives a row other scores beside another row than alone"),
    ],
)  # fmt: skip
def test_a_trial_refuses(function, more, problem) -> None:
    with pytest.raises(ArgumentError, match=f"the operator {problem}"):
        descant.operator(**more)(function)
    assert function.__name__ not in OPERATORS


def test_a_trial_draws_no_random_number_of_the_program() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    contrast_operator()
    assert torch.equal(torch.rand(3), expected)


def test_one_size_alone_may_be_tried() -> None:
    table = torch.arange(12.0)

    @descant.operator(vocabulary=12)
    def own(x, *, ids):
        return x + table * torch.tensor([[len(each)] for each in ids])

    found = compiled("own(base)").scores([3], [1])
    plain = compiled("base").scores([3], [1])
    torch.testing.assert_close(found, plain + table * torch.tensor([[1.0], [2.0]]))


@pytest.mark.parametrize("shift", ["passed", "absorbed"])
def test_a_word_on_shifts_is_tried(shift) -> None:
    @descant.operator(on_shift=shift)
    def cut(x, y):
        """Another number of tokens is excluded in each row."""
        out = x.masked_fill(x < x.mean(-1, keepdim=True) - 1, -torch.inf) + 0 * y
        return out if shift == "passed" else out.log_softmax(-1)

    with pytest.raises(ArgumentError, match="added to all of x changes own in other ways"):

        @descant.operator(on_shift=shift)
        def own(x, y):
            return x + x.exp() if shift == "passed" else x - y

    with pytest.raises(ArgumentError, match="on_shift is 'gone'; it is passed, absorbed, felt"):
        descant.operator(on_shift="gone")(whole)


# What a signature may be.


def no_scores(strength=1.0):
    return strength


def several(*parts):
    return parts[0]


def placed(x, /, y):
    return x


def words(x, how="sum"):
    return x


def truth(x, normalise=True):
    return x


def reserved(x, name=1.0):
    return x


def backwards(x, *, strength=1.0, y):
    return x


def beyond(x, share: Annotated[float, descant.Limits(high=1)] = 2.0):
    return x


def no_make(x, *, state):
    return x, state


def no_keyword(x, ids):
    return x


@pytest.mark.parametrize(
    ("function", "more", "problem"),
    [
        (no_scores, {}, "no_scores takes no scores; give it a parameter without a number"),
        (
            several,
            {},
            r"several takes \*parts, which a formula cannot write; give each parameter a",
        ),
        (placed, {}, "placed takes x, which a formula cannot write"),
        (words, {}, "how of words is 'sum'; a default is a number"),
        (truth, {}, "normalise of truth is True; a default is a number"),
        (reserved, {}, "name of reserved is a word of its own; give it another name"),
        (backwards, {}, "y of backwards has no default; put it before those that have"),
        (beyond, {}, "share of beyond must be at most 1, and its default is 2"),
        (no_make, {}, r"no_make takes a state, and none is made; write @descant.operator\(state=m"),
        (whole, ZEROS, r"whole takes no state; .* def whole\(…, \*, state\)"),
        (
            no_make,
            {"state": torch.zeros(2)},
            "state= of no_make is called for every row; make is a",
        ),
        (no_keyword, {}, r"ids of no_keyword is given by name; put \*, before it: def no_keyword"),
    ],
)
def test_a_signature_is_refused_in_words(function, more, problem) -> None:
    with pytest.raises(ArgumentError, match=problem):
        descant.operator(**more)(function)
    assert function.__name__ not in OPERATORS


def test_a_name_is_taken_once() -> None:
    contrast = contrast_operator()
    with pytest.raises(ArgumentError, match="contrast is a word of the language already"):
        descant.operator(contrast)
    for taken in ("rerank", "max", "exp", "entropy", "top_k", "a b", "<lambda>"):
        own = SimpleNamespace(__name__=taken)
        function = lambda x: x  # noqa: E731
        function.__name__ = own.__name__
        for register in (descant.operator, descant.stage):
            with pytest.raises(ArgumentError, match=r"already|is not a name"):
                register(function)


def test_a_model_may_have_its_name() -> None:
    """A word is one only where a parenthesis follows."""
    contrast_operator()
    decoder = descant.compile(
        "contrast + contrast(contrast, base)", MODELS | {"contrast": MODELS["arm"]}
    )
    x, y = (compiled(name).scores([3], []) for name in ("arm", "base"))
    torch.testing.assert_close(decoder.scores([3], []), x + 2 * x - y)


def test_a_number_of_the_state_may_be_of_it() -> None:
    contrast_operator()
    decoder = compiled("base + entropy(contrast(base, arm))*arm")
    x, y = (compiled(name).scores([3], []) for name in ("base", "arm"))
    of = (2 * x - y).log_softmax(-1)
    expected = x - (of.exp() * of).sum(-1, keepdim=True) * y
    torch.testing.assert_close(decoder.scores([3], []), expected)
    assert math.isfinite(float(expected[0, 0]))
