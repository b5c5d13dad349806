"""The page for those who come from elsewhere is true: its blocks print what it says.

Run this file with DESCANT_GOLDEN=write to take what the blocks print into the document, and read
the difference.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import os
import re
from pathlib import Path

import pytest
import torch

from descant.api import declared, plan_of
from descant.compat import model_arithmetic

FILE = Path(__file__).parents[2] / "docs/migrating.md"
TEXT = FILE.read_text(encoding="utf-8")
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.S)


@pytest.fixture(scope="module")
def printed():
    """Each block of the page, what it prints, and what the page says that it prints."""
    space: dict[str, object] = {}
    found = []
    for block in BLOCK.finditer(TEXT):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block[1], FILE.name, "exec"), space)
        found.append((block[1], out.getvalue(), block[2] or ""))
    return found


def test_the_blocks(printed):
    assert len(printed) == 10 and sum(bool(out) for _, out, _ in printed) == 9
    if os.environ.get("DESCANT_GOLDEN") == "write":
        text = TEXT
        for code, out, said in printed:
            whole = f"```python\n{code}```\n\n```text\n{said}```"
            assert not out or whole in text
            text = text.replace(whole, f"```python\n{code}```\n\n```text\n{out}```")
        FILE.write_text(text, encoding="utf-8")
    elif not torch.cuda.is_available():
        assert [out for _, out, _ in printed] == [said for _, _, said in printed]


def test_theirs_and_ours_say_the_same(printed):
    """A compat class and the formula beside it; a plain loop and the formula beside it."""
    said = [out.splitlines() for _, out, _ in printed if out]
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
