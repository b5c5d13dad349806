"""Formulas with one meaning have one plan: a table of spellings that must be equal, or must not."""

from __future__ import annotations

from fractions import Fraction

import pytest

from descant.formula import Names, Plan, Term, make_plan
from descant.grammar import parse

NAMES = Names(
    frozenset(("base", "arm", "x", "y", "rm", "rm2")),
    frozenset(("a", "b", "c")),
    {"child": "You are a child.", "empty": ""},
)
EQUAL = [
    ["base + arm", "arm + base", "(arm) + (base)", "+base + +arm", "base - -arm"],
    ["2*base", "base + base", "base*2", "base/0.5", "3*base - base", "base*4**0.5", "2.0*base"],
    ["2*arm", "base - (base - 2*arm)", "arm*(1 + 1)", "2*(arm + base - base)", "--2*arm"],
    ["x", "(1-a)*x + a*x", "x*a/a", "x*(a + 1) - a*x", "x*(a*a - 1)/(a - 1) - a*x", "x + 0*y"],
    ["x + a*y - b*y", "x + (a - b)*y", "a*y + x - y*b", "x - (b - a)*y", "x - y*(b - a)"],
    ["(a + b)**2*x", "(a**2 + 2*a*b + b**2)*x", "a*a*x + b*b*x + 2*b*a*x", "(a+b)*(b+a)*x"],
    ["x/(a + b)", "x*(1/(a + b))", "x*(a - b)/(a**2 - b**2)", "(a*x + b*x)/(a + b)**2"],
    ["x/(a - b)", "-x/(b - a)", "x/(-b + a)", "(a - b)*x/(b*b - 2*a*b + a*a)"],
    ["x/(exp(a) - exp(b))", "-x/(exp(b) - exp(a))", "2*x/(2*exp(a) - 2*exp(b))"],
    ["x*(1/(a+b) + 1/(a+c))", "x*(1/(c+a) + 1/(b+a))", "x*(2*a + b + c)/((a+b)*(a+c))"],
    ["x + y/2", "(2*x + y)/2", "0.5*(x + x + y)", "x + 0.5*y", "x + 5e-1*y", "x + y*1/2"],
    ["exp(a)*x", "x*exp(a)", "x*exp(a + b - b)", "x*exp(1*a)"],
    ["max(a, b)*x", "x*max(a, 2*b - b)"],
    ["exp(0)*x", "x", "sqrt(4)*x - abs(-1)*x", "min(1, 2)*x", "max(1, 0.5)*x", "x - log(1)*y"],
    ["x + 2", "2 + x", "1 + x + 1", "x - (-2)"],
    ['x@child + x@"You are a child."', '2*x@child', 'x@"You are a child."*2'],
    ['x@empty', 'x@""', 'x@"" + x@none - x@none'],
    ['x + x@"" + x@none', 'x@none + x + x@""', 'x@"" + x@none + x'],
    ["x + 2*align(y)", "x + align(y) + align(y)", "align(x=y)*2 + x", "x - (align(x) - align(x)) "
     "+ 2*align((y))"],
    ["x + align(y@child)", 'x + align(y@"You are a child.")'],
    ["base | rerank(rm)", "base | rerank(rm, 10)", "base | rerank(w=1, reward=rm, k=10)",
     "base | rerank(rm, k=5+5, w=2**0)", "base | rerank(0.5*rm + rm/2)",
     "base | rerank(rm, norm=none)",
     "base | rerank(rm + 0*rm2, keep=candidates)"],
    ["base | rerank(rm2 + 2*rm)", "base | rerank(rm + rm2 + rm)"],
    ["x | top_k(5) | top_p(0.9)", "x|top_k(k=5)|top_p(p=0.9)", "x | top_k(10/2) | top_p(1 - 0.1)"],
]  # fmt: skip
DIFFERENT = [
    ("base + arm", "base - arm"),
    ("base + arm", "base + 2*arm"),
    ("x", 'x@""'),
    ("x@none", 'x@""'),
    ("x + align(y)", "x + y"),
    ("x + align(y)", "x + align(y@none)"),
    ("x + align(y)", "y + align(x)"),
    ("x + 2", "x + 3"),
    ("x + 2", "x"),
    ("x + a*y", "x + b*y"),
    ("x*a**0.5", "x*a"),
    ("x | top_k(5)", "x | top_k(6)"),
    ("x | top_k(5) | top_p(0.9)", "x | top_p(0.9) | top_k(5)"),
    ("x | rerank(rm)", "x | rerank(rm2)"),
    ("x | rerank(rm, w=2)", "x | rerank(2*rm)"),
    ("x", "x | top_k(5)"),
]


def plan(formula: str) -> Plan:
    return make_plan(formula, NAMES)


@pytest.mark.parametrize("spellings", EQUAL, ids=lambda row: row[0])
def test_one_meaning_one_plan(spellings) -> None:
    first = plan(spellings[0])
    for other in spellings[1:]:
        assert plan(other) == first, other
        assert hash(plan(other).scalars) == hash(first.scalars)


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_two_meanings_two_plans(one, two) -> None:
    assert plan(one) != plan(two)


@pytest.mark.parametrize("spellings", EQUAL, ids=lambda row: row[0])
def test_the_formula_of_a_plan_gives_the_plan_again(spellings) -> None:
    for formula in spellings:
        found = plan(formula)
        assert plan(found.formula) == found
        assert make_plan(parse(formula), NAMES) == found


@pytest.mark.parametrize(
    ("formula", "params", "expected"),
    [
        ("base + 0.1*arm + 0.2*arm", {}, {"base": Fraction(1), "arm": Fraction(3, 10)}),
        ("base/3 + arm/3*3", {}, {"base": Fraction(1, 3), "arm": Fraction(1)}),
        ("(1-a)*x + a*y", {"a": 0.25}, {"x": Fraction(3, 4), "y": Fraction(1, 4)}),
        ("x*(a+b)**3 - y/(a*b)", {"a": 0.5, "b": 2}, {"x": Fraction(125, 8), "y": Fraction(-1)}),
        ("x*2**-3 + y*0.5**2", {}, {"x": Fraction(1, 8), "y": Fraction(1, 4)}),
        ("x*-2**2 + y*(-2)**2", {}, {"x": Fraction(-4), "y": Fraction(4)}),
        ("x*2**3**2", {}, {"x": Fraction(512)}),
        ("x*max(a, b, c) + y*min(a, abs(b))", {"a": 1, "b": -3, "c": 2},
         {"x": Fraction(2), "y": Fraction(1)}),
        ("x*1e-3*1e3", {}, {"x": Fraction(1)}),
        ("x*12345678901234567890/12345678901234567890", {}, {"x": Fraction(1)}),
    ],
)  # fmt: skip
def test_coefficients_are_what_fractions_say(formula, params, expected) -> None:
    found = plan(formula)
    by_term = {str(part.term): found.value(number, params) for number, part in found.scores.parts}
    assert found.values(params) == [found.value(number, params) for number in found.scalars]
    assert by_term == {name: float(value) for name, value in expected.items()}


def test_functions_have_their_values() -> None:
    import math

    found = plan("x*exp(a) + y*sqrt(b)*log(c) + base*a**b")
    params = {"a": 0.3, "b": 2.5, "c": 7.0}
    by_term = {str(part.term): found.value(number, params) for number, part in found.scores.parts}
    assert by_term == pytest.approx(
        {"x": math.exp(0.3), "y": math.sqrt(2.5) * math.log(7), "base": 0.3**2.5}, rel=1e-12
    )


@pytest.mark.parametrize(
    ("formula", "terms", "dropped"),
    [
        ("base + arm - arm", ["base"], ["arm"]),
        ("base + 0*(arm + x) + y*(a - a)", ["base"], ["arm", "x", "y"]),
        ("base + base@none - base@none", ["base"], ["base@none"]),
        ("base + align(x) - align(x) + y", ["base", "y"], ["align(x)"]),
        ("base | rerank(rm + 0*rm2)", ["base"], ["rm2"]),
        ("base", ["base"], []),
    ],
)
def test_a_dropped_term_is_gone_and_noted(formula, terms, dropped) -> None:
    found = plan(formula)
    assert [str(term) for term in found.terms] == terms
    assert [note.split(" has ")[0] for note in found.dropped] == dropped
    assert not set(dropped) & set(found.models)


def test_models_are_in_order_of_writing_and_params_those_in_use() -> None:
    found = plan("y + a*x - b*x + b*x | rerank(rm2 + rm, w=c)")
    assert found.models == ("y", "x", "rm2", "rm")
    assert found.params == {"a", "c"}


def test_every_number_has_one_place() -> None:
    found = plan("base + a*arm + 3 | rerank(rm - rm2, k=b, w=c) | top_p(0.9)")
    used = [number for number, _ in found.scores.parts] + [found.scores.shift]
    rerank, top_p = found.stages
    used += [number for number, _ in rerank.reward.parts] + [rerank.k, rerank.w, top_p.p]
    assert sorted(found.columns[number] for number in used) == list(range(len(found.scalars)))
    shown = {scalar.what: str(scalar) for scalar in found.scalars}
    assert shown["the coefficient of arm"] == "a"
    assert shown["k of rerank"] == "b"
    assert shown["the number added to the scores"] == "3"


@pytest.mark.parametrize(
    ("formula", "shown"),
    [
        ("(1-a)*x", "1 - a"),
        ("2*a**2*x", "2*a**2"),
        ("x*(a+b)*c", "a*c + b*c"),
        ("x/(a+b)", "1/(a + b)"),
        ("-a*x", "-a"),
        ("x/a**3", "1/a**3"),
        ("2*x/(a+b)**3", "2/(3*a**2*b + 3*a*b**2 + a**3 + b**3)"),
        ("x/a/b*c", "c/a/b"),
        ("x*(1/a)**b", "(1/a)**b"),
        ("x*exp(-a)/2", "(1/2)*exp(-a)"),
        ("x*-3/4", "-0.75"),
        ("x/3", "1/3"),
    ],
)
def test_coefficients_print_and_the_print_means_the_same(formula, shown) -> None:
    found = plan(formula)
    [(number, _)] = found.scores.parts
    said = str(number)
    assert plan(f"({said})*x") == found
    assert said.replace("0.5*", "(1/2)*") == shown


def test_the_order_of_terms_leaves_none_to_chance() -> None:
    """Terms come out of a set: two with one key would be in an order of their own every run."""
    terms = [
        Term("x"),
        Term("x", system=""),
        Term("x", system="kind"),
        Term("x", alone=True),
        Term("x", aligned=True),
        Term("x", alone=True, aligned=True),
        Term("y"),
    ]
    assert len({term.key for term in terms}) == len(terms)
