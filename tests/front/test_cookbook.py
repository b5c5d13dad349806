"""The cookbook is true: its blocks run and print what it says, and its formulas have plans.

Run this file with DESCANT_GOLDEN=write to take what the blocks print into the document, and read
the difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import pytest
import torch

from descant import FormulaError
from descant.api import declared, plan_of

FILE = Path(__file__).parents[2] / "docs/cookbook.md"
TEXT = FILE.read_text(encoding="utf-8")
BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.S)
BLOCKS = [(found[1], found[2]) for found in BLOCK.finditer(TEXT)]
TITLES = [
    re.findall(r"^#+ (.+)$", TEXT[: found.start()], re.M)[-1] for found in BLOCK.finditer(TEXT)
]
SETUP = BLOCKS[0][0]

MODELS = re.findall(
    r"\w+",
    """base strong arm help harm expert anti amateur tuned ref aligned nudger x y z m1 m2
    rm rm1 rm2 v cls value""",
)
PARAMS = dict.fromkeys("abcghlstw", 0.5) | {"w1": 0.5, "w2": 0.5}
PROMPTS = {"neg": "Be rude.", "bias": "Be biased."}


def printed(*blocks: str) -> str:
    """What the last of some blocks prints, each after the one before it."""
    space: dict[str, object] = {}
    for block in blocks:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block, FILE.name, "exec"), space)
    return out.getvalue()


def formulas(section: str) -> list[str]:
    """The formulas in the second column of a section's tables."""
    rows = re.findall(r"^\| [^|]+ \| (`.+`) \|$", section, re.M)
    return [code.replace(r"\|", "|") for row in rows for code in re.findall(r"`([^`]+)`", row)]


def planned(formula: str) -> str:
    specs = declared({name: f"models/{name}" for name in MODELS})
    return str(plan_of(formula, specs, PARAMS, PROMPTS).formula)


HEAD = TEXT.split("## Before you start")[0]


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=TITLES)
def test_block(number):
    code, said = BLOCKS[number]
    out = printed(code) if number == 0 else printed(SETUP, code)
    assert out.strip()
    if os.environ.get("DESCANT_GOLDEN") == "write":
        whole = FILE.read_text(encoding="utf-8")
        assert f"{code}```\n\n```text\n{said}```" in whole
        whole = whole.replace(f"{code}```\n\n```text\n{said}```", f"{code}```\n\n```text\n{out}```")
        FILE.write_text(whole, encoding="utf-8")
    elif not torch.cuda.is_available():  # there, a near tie may fall the other way
        assert out == said


def test_every_block_is_followed_by_what_it_prints():
    assert TEXT.count("```python\n") == len(BLOCKS)


def test_every_row_of_the_table_is_read():
    assert len(formulas(HEAD)) >= HEAD.count("\n| ") - 1


@pytest.mark.parametrize("formula", formulas(HEAD))
def test_formula_of_the_table(formula):
    assert planned(formula)


def test_an_unknown_formula_has_no_plan():
    with pytest.raises(FormulaError):
        planned("base + 0.5*nobody")
