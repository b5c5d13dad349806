"""The page for those who come from elsewhere: its blocks, imports, formulas and refusals."""

from __future__ import annotations

import ast
import importlib
import re

import pytest
from doc_pages import Page

from descant.api import declared, plan_of
from descant.compat import model_arithmetic

PAGE = Page("docs/migrating.md")
TEXT = PAGE.text


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """What the blocks print; it is what the page shows."""
    return [out for _, out in PAGE.check()]


def test_the_blocks(printed):
    assert len(printed) == 10 and sum(map(bool, printed)) == 9


def test_theirs_and_ours_say_the_same(printed):
    """A compat class and the formula beside it; a plain loop and the formula beside it."""
    said = [out.splitlines() for out in printed if out]
    scripts, rule, division, _, args_, reranked, _, loop, formula = said
    assert scripts[0] == rule[0]
    assert len(set(division)) == 1
    assert args_[3] == reranked[1].removeprefix("1.5 ")
    assert loop == formula != [reranked[0].removeprefix("0.0 ")]  # which is base alone


@pytest.mark.parametrize("line", re.findall(r"^from descant\S* import .*$", TEXT, re.M))
def test_imports(line):
    [node] = ast.parse(line).body
    module = importlib.import_module(node.module)
    assert all(getattr(module, name.name) is not None for name in node.names)


NAMES = ["base", "arm", "large", "expert", "anti", "llm", "rm", "rm1", "rm2", "x", "y", "other"]
FORMULAS = [
    code.replace(r"\|", "|")
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.S))
    if re.match(r"(base|large|llm|max|min|mean|where|debias|rerank|top_p)\b[^=]*[(+@|]", code)
    and not re.search(r"params=|torch|generate", code)
]


@pytest.mark.parametrize("formula", sorted(set(FORMULAS)))
def test_formulas_of_the_tables(formula):
    if formula.startswith("rerank"):
        formula = f"base | {formula}"
    specs = declared({name: f"models/{name}" for name in NAMES})
    params = dict.fromkeys(("alpha", "a", "w", "g", "k", "p", "t", "lam"), 0.5)
    assert plan_of(formula, specs, params | {"k": 5}, {"neg": "Be rude."}).formula


def test_what_is_refused_is_on_the_page():
    page = re.search(r"^\| (`Abs`.*?) \| refused", TEXT, re.M)[1]
    told = set(re.findall(r"`(\w+)`", page))
    inner = {"BaseClass", "RetroActiveOperator", "RunnableOperator", "enable_logging"}
    assert told == set(model_arithmetic._MISSING) - inner
