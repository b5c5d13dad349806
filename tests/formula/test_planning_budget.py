"""Planning keeps to a counted budget of work, and what is kept as written means the same."""

from __future__ import annotations

import json
import random
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_equal_plans import DIFFERENT, EQUAL
from test_equal_plans import NAMES as SMALL

import descant
from bench.planning import FAMILIES, NAMES, at_random
from descant import FormulaError
from descant.formula import Plan, make_plan
from descant.formula.algebra import collect
from descant.formula.algebra.liveness import always, needed_terms
from descant.formula.algebra.shift_invariance import unnormalised

HANGS = 10  # seconds, of the wall's clock
ISSUE = " + ".join(f'a/((1+a*b)+b+{i})**30*base@"{i}"' for i in range(105))
PLANNER = """
import json, sys
from bench.planning import evaluated, made
for line in sys.stdin:
    plan = made(json.loads(line))
    if isinstance(plan, str):
        found = {"refused": plan}
    else:
        size = sum(len(str(scalar)) for scalar in plan.scalars) + len(repr(plan.scores))
        found = {"work": plan.work, "printed": size, "no value": evaluated(plan)}
    print(json.dumps(found), flush=True)
"""


class Planner:
    """A process that plans, prints and evaluates formulas, and is killed where one hangs."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        command, pipe = [sys.executable, "-c", PLANNER], subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=root)
        self("x*a/(a+b)", 120)  # what a first formula loads

    def __call__(self, formula: str, seconds: float = HANGS) -> dict[str, Any]:
        process = self._process
        process.stdin.write(json.dumps(formula) + "\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            if not ready.select(seconds):
                self.stop()
                self.__init__()
                pytest.fail(f"no plan after {seconds} seconds: {formula[:200]}")
        return json.loads(process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def planner() -> Iterator[Planner]:
    planner = Planner()
    yield planner
    planner.stop()


def within_budget(found: dict[str, Any]) -> None:
    assert found.get("refused") or 0 <= found["work"] <= collect.WORK
    assert found.get("printed", 0) < 20_000_000


@pytest.mark.parametrize("formula", FAMILIES.values(), ids=FAMILIES)
def test_the_worst_families_are_within_the_budget(planner, formula) -> None:
    within_budget(planner(formula))


@pytest.mark.parametrize("seed", range(40))
def test_formulas_at_random_are_within_the_budget(planner, seed) -> None:
    within_budget(planner(at_random(random.Random(seed))))


def test_a_planner_that_hangs_is_ended(planner) -> None:
    """And the next formula has another."""
    with pytest.raises(pytest.fail.Exception, match="no plan after"):
        planner(FAMILIES["functions"], 0.0)
    assert "work" in planner("x")


def test_few_families_are_refused() -> None:
    """The budget is no way to refuse: what is refused is too long to read, or is no number."""
    refused = {}
    for name, formula in FAMILIES.items():
        try:
            make_plan(formula, NAMES)
        except FormulaError as error:
            refused[name] = error.problem
    said = ("too long", "too large")
    assert all(any(word in problem for word in said) for problem in refused.values()), refused
    assert len(refused) < len(FAMILIES) / 4


def test_what_is_beyond_the_budget_has_the_value_that_is_written() -> None:
    plan = make_plan(ISSUE, NAMES)
    assert plan.kept > 90 and plan.work <= collect.WORK
    a, b = 0.5, 0.25
    values = plan.values({"a": a, "b": b})
    for number, part in plan.scores.parts:
        expected = a / ((1 + a * b) + b + int(part.term.system)) ** 30
        assert values[plan.columns[number]] == pytest.approx(expected, rel=1e-9)


@pytest.fixture
def without_a_budget(monkeypatch) -> Callable[[str], Plan]:
    """Plans as if nothing could be multiplied out."""

    def plan(formula: str) -> Plan:
        with monkeypatch.context() as patch:
            patch.setattr(collect, "WORK", 0)
            return make_plan(formula, SMALL)

    return plan


@pytest.mark.parametrize("spellings", EQUAL, ids=lambda row: row[0])
def test_kept_and_collected_mean_the_same(without_a_budget, spellings) -> None:
    """Terms, numbers, shifts and what is needed are those of the collected form."""
    collected = make_plan(spellings[0], SMALL)
    for formula in spellings:
        kept = without_a_budget(formula)
        assert kept.work == 0
        assert kept.terms == collected.terms and kept.rewards == collected.rewards
        assert unnormalised(kept) == unnormalised(collected)
        assert len(always(kept.scores)) == len(always(collected.scores))
        for params in ({"a": 0.3, "b": 0.7, "c": 1.9}, {"a": -1.25, "b": 0.5, "c": 3.0}):
            values, expected = kept.values(params), collected.values(params)
            pairs = zip(kept.scores.parts, collected.scores.parts, strict=True)
            for (number, part), (other, same) in pairs:
                value = expected[collected.columns[other]]
                assert values[kept.columns[number]] == pytest.approx(value, rel=1e-9, abs=1e-9)
                assert part == same
            assert needed_terms(kept, values) == needed_terms(collected, expected)


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_two_meanings_are_two_plans_without_a_budget(without_a_budget, one, two) -> None:
    assert without_a_budget(one) != without_a_budget(two)


ZERO = "((a+b)**2 - a**2 - 2*a*b - b**2)"


def test_a_number_that_is_zero_is_seen_without_multiplying_out(without_a_budget) -> None:
    plan = without_a_budget(f"x + {ZERO}*y + exp({ZERO}*a)*arm")
    assert [str(term) for term in plan.terms] == ["arm", "x"]
    assert [note.split(" has ")[0] for note in plan.dropped] == ["y"]
    assert plan.values({"a": 0.5, "b": 0.25}) == [1.0, 1.0]
    formula = f"x/({ZERO}*a)"
    with pytest.raises(FormulaError, match="this divides by zero") as caught:
        without_a_budget(formula)
    assert formula[slice(*caught.value.span)] == f"{ZERO}*a"
    with pytest.raises(FormulaError, match="every model in this expression cancels out"):
        without_a_budget(f"{ZERO}*x")


def test_no_value_where_the_written_form_has_none(without_a_budget) -> None:
    plan = without_a_budget("x*(a**2 - b**2)/(a - b)")
    assert plan.values({"a": 0.5, "b": 0.25}) == [0.75]
    with pytest.raises(FormulaError, match=r"is not a finite number at a=0\.5, b=0\.5"):
        plan.values({"a": 0.5, "b": 0.5})


def test_a_number_that_no_double_holds_is_refused_where_it_is_written() -> None:
    for number in ("9**9**9", "(1e300*a)**20*1e300**14", "2**5000"):
        with pytest.raises(FormulaError, match="too large to work with"):
            make_plan(f"x*({number})", SMALL)
    assert make_plan("x*(1e300*1e300*1e-300*1e-300)", SMALL).values({}) == [1.0]


def test_too_many_numbers_are_refused_with_their_place() -> None:
    groups = (f"({'+'.join(f'x{20 * i + j}' for j in range(20))})" for i in range(35))
    formula = "(" * 90 + " + ".join(groups) + "".join(f")*p{i}" for i in range(90))
    with pytest.raises(FormulaError, match="the coefficients up to here are too long") as caught:
        make_plan(formula, NAMES)
    start, end = caught.value.span
    assert formula[start:end].startswith("x")


def test_the_plan_says_how_many_numbers_are_kept(monkeypatch) -> None:
    models = {"base": descant.TableModel.random(7, seed=0)}
    params = {"a": 1.0, "b": 1.0}
    formula = "base*(a+b)**2 | top_p(1/(a+b))"
    assert "as written" not in str(descant.compile(formula, models, params=params).plan)
    monkeypatch.setattr(collect, "WORK", 0)
    decoder = descant.compile(formula, models, params=params)
    note = decoder.plan.notes[0]
    assert note.startswith("2 numbers are worked out as written")
    assert note in str(decoder.plan)
