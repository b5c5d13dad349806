"""Hostile formulas: refused, or parsed, in less than a second, and never by a crash."""

import time

import pytest
from trees import round_trip

from descant.grammar import FormulaError, Node, parse, text
from descant.grammar.literals import NUMBER_DIGITS
from descant.grammar.parse import DEPTH, LENGTH, NESTING, PARENTHESES

LONG = f"a formula may have at most {LENGTH} characters, and this one has "
PARENTHESIS = f"a formula may have at most {PARENTHESES} parentheses inside each other"
NESTED = f"a formula may have at most {NESTING} operators and calls inside each other"
DEEP = f"a formula may have at most {DEPTH} operators and arguments inside each other"
LARGE, SMALL = "this number is too large for a float", "this number is too small for a float"
DIGITS = f"a number may have at most {NUMBER_DIGITS} digits"


def quick(formula: str) -> Node:
    """The tree of a formula, in less than a second even where a machine is busy."""
    start = time.process_time()
    try:
        return parse(formula)
    finally:
        assert time.process_time() - start < 1


def nest(left: str, right: str, times: int) -> str:
    return left * times + "a" + right * times


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    parse("a")


@pytest.mark.parametrize(
    ("formula", "problem"),
    [
        ("a" * 10_000, LONG + "10000"),
        ("a" * (LENGTH + 1), LONG + str(LENGTH + 1)),
        (" " * 5000, LONG + "5000"),
        (nest("(", ")", 1000), PARENTHESIS),
        (nest("(", ")", PARENTHESES + 1), PARENTHESIS),
        ("(" * LENGTH, PARENTHESIS),
        (nest("f(", ")", PARENTHESES + 1), PARENTHESIS),
        (")" * LENGTH, "this parenthesis closes nothing"),
        ("-" * 3000 + "x", NESTED),
        ("-" * (NESTING + 1) + "x", NESTED),
        ("not " * 1000 + "x", NESTED),
        ("a**" * 1000 + "a", NESTED),
        ("a**" * (NESTING + 1) + "a", NESTED),
        (nest("-f(", ")", 51), NESTED),
        (nest("-(a+", ")", 51), NESTED),
        ("+".join("a" * 2000), DEEP),
        ("*".join("a" * (DEPTH + 2)), DEEP),
        (" and ".join("a" * (DEPTH + 2)), DEEP),
        (nest("f(", ")", 60).replace("a", "+".join("a" * 82)), DEEP),
        ("a<" * 2000 + "a", "a comparison cannot be followed by another"),
        ("a " * 2000, "an operator is missing between a and a"),
        ("a@" * 2000 + "a", "a model takes one prompt"),
        ('"' * 4095, "this string is never closed"),
        ("\\" * 4000, "a backslash belongs inside a string"),
        ('"' + "\\u0041" * 600 + '\\q"', "a string has no escape \\q"),
        ("(a)" * 1000, "an operator is missing between ) and ("),
        ("f(a;" + "a;" * 1900 + "b)", "; comes once, before the first weighted argument"),
        ("." * 4000, "a formula cannot leave anything out"),
        ("é" * 4000, "é (U+00E9, latin small letter e with acute) cannot be in a name"),
        ("a.b" * 1300, "a name holds only letters, digits and underscores"),
        ("1e999999999", LARGE),
        ("0e999999999", LARGE),
        ("1e-999999999", SMALL),
        ("0e-999999999", SMALL),
        ("1e+" + "9" * 4000, LARGE),
        ("1e309", LARGE),
        ("1e-324", SMALL),
        ("0." + "0" * 400 + "1", SMALL),
        ("9" * 400, LARGE),
        ("1" * LENGTH, DIGITS),
        ("0." + "1" * (NUMBER_DIGITS + 1), DIGITS),
    ],
    ids=lambda value: value[:20],
)
def test_refused(formula: str, problem: str) -> None:
    with pytest.raises(FormulaError) as caught:
        quick(formula)
    assert caught.value.problem == problem
    assert max(map(len, str(caught.value).splitlines())) < 120


@pytest.mark.parametrize(
    "formula",
    [
        "a" * LENGTH,
        nest("(", ")", PARENTHESES),
        nest("f(", ")", PARENTHESES),
        nest("f(k=", ")", PARENTHESES),
        nest("(a | f(", "))", PARENTHESES // 2),
        nest("mix(a + a: ", ")", PARENTHESES - 1),
        "-" * NESTING + "x",
        "a**" * NESTING + "a",
        "+".join("a" * (DEPTH + 1)),
        "-".join("a" * (DEPTH + 1)),
        " or ".join("a" * (DEPTH + 1)),
        nest("f(", ")", 60).replace("a", "+".join("a" * 81)),
        "a" + "|f" * 600,
        "f(" + "a, " * 1300 + "a)",
        "(" + "a," * 1300 + "a)",
        "1e308 + 5e-324 + 0e9 + 1e" + "0" * 1000 + "3",
        "0" * 4000 + "1",
        "0." + "1" * NUMBER_DIGITS,
        '"' + "\\u0041" * 600 + '"',
    ],
    ids=lambda value: value[:20],
)
def test_allowed_and_comes_back(formula: str) -> None:
    """Also compared, hashed and printed: Python does those by recursion, and may run out of it."""
    tree = quick(formula)
    round_trip(tree)
    assert hash(tree) == hash(parse(formula))
    assert repr(tree)
    assert len(text(tree)) < 3 * LENGTH


@pytest.mark.parametrize(
    ("formula", "start", "end"),
    [
        ("a" * 5000, LENGTH, 5000),
        (nest("(", ")", 101), 100, 101),
        ("b + 1e999 + c", 4, 9),
        ("b + --" + "-" * 99 + "x", 4, 106),
    ],
)
def test_a_limit_points(formula: str, start: int, end: int) -> None:
    with pytest.raises(FormulaError) as caught:
        parse(formula)
    assert caught.value.span == (start, end)


def test_a_formula_of_ten_terms_takes_little_time() -> None:
    formula = " + ".join(f"0.{i}*model_{i}" for i in range(10)) + " | rerank(reward, k=10, w=1.5)"
    best = min(_seconds(formula) for _ in range(20))
    assert best < 0.01  # about 1 ms on a quiet machine


def _seconds(formula: str) -> float:
    start = time.process_time()
    parse(formula)
    return time.process_time() - start
