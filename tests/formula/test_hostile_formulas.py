"""Formulas made to hurt end soon, as a plan or as a FormulaError, and never as anything else."""

from __future__ import annotations

import time

import pytest

from descant import FormulaError
from descant.formula import Names, make_plan

LETTERS = "abcdefgh"
NAMES = Names(frozenset(("base", "arm", "rm")), frozenset(LETTERS) | {f"p{i}" for i in range(400)})
HUGE = "*".join(["10**1000"] * 30)
HOSTILE = {
    "a tower": "2**10**10*base",
    "a tower under a line": "base/9**9**9",
    "a tower of fractions": "base*0.5**10**10",
    "a root of a tower": "base*(2**0.5)**1e9",
    "a power of a sum": "(a+b+c+d+e)**64*base",
    "nested powers": "base*((((a+1)**8)**8)**8)",
    "nested powers of one": "base*(((a**64)**64)**64)",
    "powers side by side": "base*(a+b)**63*(c+d)**63",
    "a long quotient": "base*(((a**64)**64)**64-1)/(a-1)",
    "a quotient of powers": "base*(1/(a+b+c)**20+1/(a+b+d)**20)",
    "a quotient in eight parameters": "base*((a**64-b**64)*(c**64-d**64)*(e**64-f**64)"
    "*(g**64-h**64))/((a**2-b**2)*(c**2-d**2)*(e**2-f**2)*(g**2-h**2))",
    "a sum of quotients": "base*(" + "+".join(f"1/(p{i}+p{i + 1})" for i in range(60)) + ")",
    "quotients inside quotients": "base*" + "1/(a+" * 60 + "b" + ")" * 60,
    "exp of exp": "base*exp(exp(exp(9)))",
    "exp of a large number": "base*exp(10**400)",
    "a large number in a function": "base*exp(a*10**400)",
    "a large coefficient": "base*(a*10**400)",
    "a number beyond all printing": f"base*({HUGE})",
    "its inverse": f"base/({HUGE})",
    "it times a parameter": f"base*({HUGE}*a)",
    "it inside a function": f"base*exp({HUGE}*a)",
    "products of large floats": "base*" + "*".join(["1e300"] * 400),
    "a long sum": "base" + " + 0.1*base" * 360,
    "a long sum of terms": "+".join(f"p{i}*base" for i in range(180)),
    "4000 characters": "base*(" + "+".join(f"p{i}" for i in range(400)) + ")*(a+b)",
    "10000 characters": "base" + "+base" * 2000,
    "1000 deep": "(" * 1000 + "base" + ")" * 1000,
    "1000 calls deep": "base*" + "exp(" * 1000 + "a" + ")" * 1000,
    "1000 signs": "-" * 1000 + "base",
    "1000 towers": "base*" + "**".join(["2"] * 1000),
    "90 calls deep": "base*" + "exp(" * 90 + "a" + ")" * 90,
    "a long product": "base*" + "*".join(["(a+b)"] * 60),
    "a product of sums": "base*" + "*".join(f"(1+p{i})" for i in range(150)),
    "functions of functions": "base*max(" + ",".join(["a"] * 64) + ")",
    "stages": "base" + " | top_k(5)" * 90,
    "states of sums of states": "entropy(" * 60 + "base" + ")*(base+arm)" * 60,
    "divergences inside each other": "js(" * 60 + "base" + ", arm)*base" * 60,
    "states in many terms": "+".join(f"entropy(base+{i}*arm)*base" for i in range(1, 150)),
    "states multiplied out": "base*" + "*".join(f"(step+p{i})" for i in range(60)),
    "brackets multiplied out": "base[" + "+".join(f"(a+{i})**9*arm" for i in range(100)) + "]",
    "brackets inside each other": "base[" * 90 + "arm" + "]" * 90,
    "rewards multiplied": "base | rerank(" + "*".join(f"(rm+a+{i}*r)" for i in range(60)) + ")",
    "rewards of rewards": "base | rerank(" + "max(rm, 2*(" * 40 + "rm" + "))" * 40 + ")",
    "a deep reward": "base | rerank(" + "(" * 95 + "rm" + ")" * 95 + ")",
}


@pytest.mark.parametrize("formula", HOSTILE.values(), ids=HOSTILE)
def test_it_ends_soon(formula) -> None:
    make_plan("base + a/(a+b)*arm", NAMES)  # sympy is imported and warm
    start = time.process_time()
    try:
        found = make_plan(formula, NAMES)
    except FormulaError as error:
        assert str(error).count("\n") in (2, 3)
        assert max(map(len, str(error).splitlines())) < 2000
    else:
        assert found.terms
        try:
            found.values(dict.fromkeys(NAMES.params, 0.5))
        except FormulaError as error:
            assert "finite" in error.problem
        assert all(str(scalar) for scalar in found.scalars)
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a tower", "too large"),
        ("a power of a sum", "too long when it is multiplied out"),
        ("a long quotient", "this quotient is too long"),
        ("a quotient of powers", "this quotient is too long"),
        ("exp of exp", "is not a finite number"),
        ("exp of a large number", "is not a finite number"),
        ("a number beyond all printing", "too large"),
        ("10000 characters", "at most 4096 characters"),
        ("1000 deep", "at most 100 parentheses"),
    ],
)
def test_it_says_why(name, problem) -> None:
    with pytest.raises(FormulaError) as caught:
        make_plan(HOSTILE[name], NAMES)
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    "formula",
    [
        "base*a/(a+b+c+d+e+f)",
        "base*((a+b)/(c+d))**3",
        "base*(1/(a+b)+1/(a+c)+1/(b+c))",
        "base*(a**64-1)/(a-1)",
        "base*(a+b)**60/(a+b)**59",
        "base*(a+b+c+d)**6",
        "base" + " + 0.1*base" * 150,
    ],
)
def test_what_people_write_is_no_hostile_formula(formula) -> None:
    assert make_plan(formula, NAMES).terms


def test_nothing_is_evaluated() -> None:
    """Names that mean something to Python or to sympy mean nothing here."""
    for name in ("S", "N", "E", "I", "gamma", "pi", "zoo", "oo", "__import__", "lambda_", "Q"):
        with pytest.raises(FormulaError, match=f"{name} is not declared"):
            make_plan(f"base + {name}*arm", NAMES)
        found = make_plan(
            f"base + {name}*arm", Names(frozenset(("base", "arm")), frozenset((name,)))
        )
        assert found.values({name: 0.25})[0] in (0.25, 1.0)
    for text in ('__import__("os").getcwd()', "base.__class__", "(lambda: base)()", "base; arm"):
        with pytest.raises(FormulaError):
            make_plan(text, NAMES)
