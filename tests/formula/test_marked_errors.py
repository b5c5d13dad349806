"""Wrong formulas: each with its problem and its cure, and carets under the exact place.

The table is wrong_formulas.txt: a formula, its carets, the problem and, where there are such, the
cure and where more is said, a line each, and an empty line between two formulas.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from descant import FormulaError
from descant.formula import STAGES, Names, make_plan

TABLE = Path(__file__).with_name("wrong_formulas.txt").read_text(encoding="utf-8")
CASES = [block.split("\n") for block in TABLE.strip("\n").split("\n\n")]
HEADS = {
    "early": SimpleNamespace(on="base", gives_scores=True),
    "refuses": SimpleNamespace(on="base", gives_scores=False),
}
NAMES = Names(
    frozenset(("base", "arm", "rm", *HEADS)), frozenset("ab"), {"child": "You are a child."}, HEADS
)


def check(formula: str, carets: str, problem: str, cure: str = "", more: str = "") -> None:
    """The error of a formula is this one, at the place under which the carets are."""
    with pytest.raises(FormulaError) as caught:
        make_plan(formula, NAMES)
    found = caught.value
    marked = " " * found.span.start + "^" * (found.span.end - found.span.start)
    assert (marked, found.problem, found.cure) == (carets, problem, cure)
    lines = [problem, f"  {formula}", f"  {carets}", cure, more]
    assert str(found) == "\n".join(filter(None, lines))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_an_error_points(case) -> None:
    check(*case)


def test_the_check_can_fail() -> None:
    formula, carets, problem, cure = CASES[0]
    for wrong in (
        (formula, carets[1:], problem, cure),
        (formula, f" {carets}", problem, cure),
        (formula, carets, "another problem", cure),
        (formula, carets, problem, ""),
    ):
        with pytest.raises(AssertionError):
            check(*wrong)
    with pytest.raises(pytest.fail.Exception):
        check("base + arm", *CASES[0][1:])


def test_the_table_says_each_formula_once() -> None:
    assert len({case[0] for case in CASES}) == len(CASES)
    assert all(len(case) in (3, 4, 5) for case in CASES)


@pytest.mark.parametrize("name", sorted(STAGES.keys() - {"choice"}))  # which takes texts alone
def test_every_stage_names_its_arguments(name) -> None:
    """An argument that is nearly one of its own is answered with that one."""
    cls = STAGES[name]
    known = list(cls.arguments())
    required = "".join(f"{key}={'rm' if key == 'reward' else 1}, " for key in cls.required())
    with pytest.raises(FormulaError) as caught:
        make_plan(f"base | {name}({required}{known[0]}{known[0]}=1)", NAMES)
    assert caught.value.problem == f"{name} has no argument {known[0]}{known[0]}"
    assert any(key in caught.value.cure for key in known)
    for key in cls.required():
        others = "".join(f"{one}=1, " for one in cls.required() if one != key).rstrip(", ")
        with pytest.raises(FormulaError, match=f"{name} needs its argument {key}"):
            make_plan(f"base | {name}({others})" if others else f"base | {name}", NAMES)
