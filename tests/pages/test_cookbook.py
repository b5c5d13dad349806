"""The formulas of the cookbook's table have plans. test_blocks.py runs its code."""

from __future__ import annotations

import re

import pytest
import torch
from doc_pages import Page

from descant import FormulaError
from descant.api import declared, plan_of

PAGE = Page("docs/cookbook.md")

MODELS = re.findall(
    r"\w+",
    """base strong arm help harm expert anti amateur small tuned ref aligned nudger x y z m1 m2
    rm rm1 rm2 v cls value prm ok chat honest shared vlm""",
)
ON_BASE = {
    "early": {"head": "own", "on": "base", "layer": 0},
    "refuses": {"head": torch.zeros(1, 8), "on": "base", "layer": 0},
    "calm": {"vector": {0: torch.zeros(8)}, "on": "base"},
}
PARAMS = dict.fromkeys("abcghlpstw", 0.5) | {"w1": 0.5, "w2": 0.5}
PROMPTS = {"neg": "Be rude.", "bias": "Be biased."}


def formulas(section: str) -> list[str]:
    """The formulas in the second column of a section's tables."""
    rows = re.findall(r"^\| [^|]+ \| (`.+`) \|$", section, re.M)
    return [code.replace(r"\|", "|") for row in rows for code in re.findall(r"`([^`]+)`", row)]


def planned(formula: str) -> str:
    specs = declared({name: f"models/{name}" for name in MODELS} | ON_BASE)
    return str(plan_of(formula, specs, PARAMS, PROMPTS).formula)


HEAD = PAGE.text.split("## Before you start")[0]


def test_every_row_of_the_table_is_read():
    assert len(formulas(HEAD)) >= HEAD.count("\n| ") - 1


@pytest.mark.parametrize("formula", formulas(HEAD))
def test_formula_of_the_table(formula):
    assert planned(formula)


def test_an_unknown_formula_has_no_plan():
    with pytest.raises(FormulaError):
        planned("base + 0.5*nobody")
