"""Wrong formulas: each with carets under the exact place, the problem and the cure.

The table is wrong.txt: a formula, its carets, the problem and the cure, one line each as a user
sees them, and an empty line between two formulas.
"""

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from descant.grammar import FormulaError, Span, parse

WRONG = Path(__file__).with_name("wrong.txt").read_text(encoding="utf-8")
CASES = [block.splitlines() for block in WRONG.strip().split("\n\n")]


def error(formula: str) -> FormulaError:
    with pytest.raises(FormulaError) as caught:
        parse(formula)
    return caught.value


def check(formula: str, carets: str, problem: str, cure: str) -> None:
    """The error of a formula is this one, at the place under which the carets are."""
    found = error(formula)
    marked = " " * found.span.start + "^" * (found.span.end - found.span.start)
    assert (marked, found.problem, found.cure) == (carets, problem, cure)
    assert str(found) == f"{problem}\n  {formula}\n  {carets}\n{cure}"
    assert found.text == formula


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_an_error_points(case: list[str]) -> None:
    check(*case)


def test_the_table_is_long_and_says_each_formula_once() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) >= 50


def test_the_check_can_fail() -> None:
    formula, carets, problem, cure = "base arm", "^^^^^^^^", *CASES[0][2:]
    for wrong in (
        (formula, carets, "another problem", cure),
        (formula, f" {carets}", problem, cure),
        (formula, carets[1:], problem, cure),
    ):
        with pytest.raises(AssertionError):
            check(*wrong)
    with pytest.raises(pytest.fail.Exception):
        check("base + arm", *CASES[0][1:])


@pytest.mark.parametrize("formula", ["", "   ", "\n\t\n"])
def test_an_empty_formula(formula: str) -> None:
    found = error(formula)
    assert found.problem == "the formula is empty"
    assert found.cure == "write a formula, such as base + 0.5*arm"


def test_the_line_of_the_mistake_is_shown() -> None:
    found = error("base\n  + arm +\n  | top_k(5)")
    assert str(found).splitlines()[1:3] == ["    + arm +", "          ^"]
    assert found.span == (13, 18)


def test_a_string_stays_on_its_line() -> None:
    found = error('base@"You are\na child."')
    assert found.span == Span(5, 6)
    assert found.cure == r"close it on the line where it opens, and write \n for a line break"


@pytest.mark.parametrize(
    ("formula", "span", "said"),
    [
        ("a\u00a0+ b", (1, 2), "U+00A0, no-break space"),
        ("a +\u200b b", (3, 4), "U+200B, zero width space"),
        ("\ufeffa", (0, 1), "U+FEFF, zero width no-break space"),
        ("a\u202e", (1, 2), "U+202E, right-to-left override"),
        ("a\x00", (1, 2), "U+0000"),
        ("a + \ud800", (4, 5), "U+D800"),
    ],
)
def test_a_character_that_does_not_show_is_named(
    formula: str, span: tuple[int, int], said: str
) -> None:
    found = error(formula)
    assert found.span == span
    assert found.problem == f"the character {said} has no meaning in a formula"
    assert found.cure in ("remove it", "write a plain space")


def test_half_a_character_in_a_string() -> None:
    found = error('a@"x\ud800"')
    assert (found.span, found.problem) == ((4, 5), "this is half of a character")


def test_an_error_survives_pickling() -> None:
    found = error("base arm")
    assert str(pickle.loads(pickle.dumps(found))) == str(found)


def check_wording(formula: str) -> None:
    """A text is a formula, or gets an error with its place inside and one line each to say so."""
    try:
        parse(formula)
    except FormulaError as found:
        assert 0 <= found.span.start < found.span.end <= max(len(formula), 1)
        for line in (found.problem, found.cure):
            assert line.strip()
            assert len(line.splitlines()) == 1
            assert len(line) < 200
        assert "language reference" not in found.cure, "no case words this mistake"


PIECES = ["a", "f(", "0.5", "7b", '"s"', "'", *"+-*/<>|(),;:=@.#&[]", "**", "<=", "and", "not", "é"]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=10), st.sampled_from(["", " ", "\n"]))
def test_pieces_in_any_order(pieces: list[str], space: str) -> None:
    check_wording(space.join(pieces))


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text(formula: str) -> None:
    check_wording(formula)


WHOLE = (
    'where(step < 2, mix(0.4: a, 0.6: b@"x y"), pmean(-1; 1: c, d: e)**2)'
    " | rerank(r, k=10, clamp=(0, 1))"
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(WHOLE)), st.integers(0, 3), st.sampled_from([*PIECES, "", " ", "\\"]))
def test_one_slip_of_the_hand(at: int, lost: int, piece: str) -> None:
    check_wording(WHOLE[:at] + piece + WHOLE[at + lost :])


def test_the_wording_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(formula: str) -> None:
        raise FormulaError("wrong", formula, Span(0, len(formula) + 1), "write it right")

    monkeypatch.setitem(check_wording.__globals__, "parse", refuse)
    with pytest.raises(AssertionError):
        check_wording("a")
