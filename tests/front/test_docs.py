"""The documents say what the code does: snippets run, tables and plans are the code's own."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

import descant
from descant.formula import STAGES
from descant.formula.arguments import usage
from descant.formula.operators import OPERATORS
from descant.formula.signature import Signature
from descant.runfile import load_yaml, validated

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(kind: str, classes: Mapping[str, type[Signature]]) -> str:
    """The stages or the operators of the language, from the classes that are their signatures."""
    lines = [f"| {kind} | does |", "|---|---|"]
    for cls in classes.values():
        lines.append(f"| `{usage(cls)}` | {' '.join((cls.__doc__ or '').split())} |")
    return "\n".join(lines)


@pytest.mark.parametrize(("kind", "classes"), [("stage", STAGES), ("operator", OPERATORS)])
def test_the_tables_are_the_codes_own(kind, classes):
    assert table(kind, classes) in (ROOT / "docs/language.md").read_text(encoding="utf-8")


def test_the_readme_example_and_its_plan():
    code = re.search(r"```python\n(import descant.*?)```", README, re.S)[1]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), {})
    printed, written = out.getvalue(), re.search(r"```\n(formula .*?)```", README, re.S)[1]

    def lasting(text):
        return re.sub(r"floor +.*? ms at .*? GB/s", "floor", text)

    assert lasting(written.strip()) in lasting(printed)
    assert len(re.findall(r"^(?:0\.0|0\.5|1\.0) ", printed, re.M)) == 3


def test_the_language_references_snippets():
    text = (ROOT / "docs/language.md").read_text(encoding="utf-8")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for code in re.findall(r"```python\n((?:from|import) .*?)```", text, re.S):
            exec(compile(code, "language.md", "exec"), {})
    assert "base | floor(p=0.01) | temperature(2)" in out.getvalue()
    assert "base + (1 - a)*arm_help + a*arm_harm | rerank(reward_help, k=10)" in out.getvalue()


PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
PAGES += [*sorted((ROOT / "examples").rglob("*.md")), *sorted((ROOT / "examples").glob("*.ipynb"))]
PAGES += [ROOT / "bench/README.md", ROOT / "descant/demo/weights/README.md"]


def anchors(text: str) -> set[str]:
    """What a link may name in a page: its headings, and what it names itself."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    titles = re.findall(r"^#+ (.+)$", prose, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r'<a id="([^"]+)"></a>', text))


def lost(file: Path) -> list[str]:
    """The links of a page that lead nowhere in the repository."""
    found = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", file.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = file.parent / path if path else file
        there = target.exists()
        if there and anchor:
            there = anchor in anchors(target.read_text(encoding="utf-8"))
        found += [link] * (not there)
    return found


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file):
    assert lost(file) == []


def test_a_lost_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](page.md#one) [b](page.md#two) [c](#one) [d](#two) [e](no.md)\n")
    assert lost(page) == ["page.md#two", "#two", "no.md"]


def modules() -> list[str]:
    found = pkgutil.walk_packages([str(Path(descant.__file__).parent)], "descant.")
    subs = [m.name for m in found if m.name not in ("descant.__main__", "descant.demo.recipe")]
    rooms = ("grammar", "formula", "models", "runtime")
    for room in rooms:
        package = importlib.import_module(f"descant.{room}")
        subs += [m.name for m in pkgutil.walk_packages(package.__path__, f"descant.{room}.")]
    return sorted({"descant", *subs})


@pytest.mark.parametrize("name", modules())
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_what_the_loading_page_declares_can_be_declared():
    text = (ROOT / "docs/loading.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(models:.*?)```", text, re.S)
    assert len(blocks) >= 3
    for block in blocks:
        models = load_yaml(block)["models"]
        assert list(validated({"formula": "+".join(models), "models": models}, "here").models)
