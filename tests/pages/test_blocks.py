"""The code of the pages runs, and prints what the pages show."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from doc_pages import ROOT, Page, lasting
from sweeps import run_of

import descant
from descant.demo import models
from descant.models import make_spec
from descant.sweep import sweep

MODELS = models()
PAGES = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md"))
SHOWN = (
    "constraints",
    "cookbook",
    "how-do-i",
    "prompts",
    "search",
    "transformers",
)  # test_migrating.py has one more


@pytest.mark.parametrize("name", [page for page in PAGES if Page(page).blocks("python")])
def test_every_page_with_python_is_run_by_a_test(name) -> None:
    """Here, or beside the tests of what the page is about."""
    if name not in {f"docs/{shown}.md" for shown in SHOWN}:
        sources = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py")]
        assert any(f'Page("{name}")' in source for source in sources)


@pytest.mark.parametrize("name", SHOWN)
def test_blocks_print_what_the_page_shows(name) -> None:
    printed = Page(f"docs/{name}.md").check()
    assert len(printed) >= 3 and all(out.strip() for _, out in printed)


def test_another_output_is_found(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n")
    Page(page).check()
    for text in ("# One\n\n```python\nprint(1)\n```\n\n```text\n2\n```\n",
                 "# One\n\n```python\nprint(1)\n```\n"):  # fmt: skip
        page.write_text(text)
        with pytest.raises(AssertionError):
            Page(page).check()


def test_the_readme_example_and_its_plan() -> None:
    readme = Page("README.md")
    [(_, printed)] = readme.run("import descant")
    [plan] = readme.code("", "formula ")
    assert lasting(plan.strip()) in lasting(printed)
    assert len(re.findall(r"^(?:0\.0|0\.5|1\.0) ", printed, re.M)) == 3


def test_the_readme_example_of_the_chat_model(smollm2_package: Path) -> None:
    """Its answers are those that the page shows."""
    readme = Page("README.md")
    [(block, printed)] = readme.run("from descant.demo import chat_models", {"descant": descant})
    assert block.output is not None and printed == block.output


def test_the_language_page() -> None:
    page = Page("docs/language.md")
    out = "".join(out for begins in ("from", "import") for _, out in page.run(begins))
    assert "contrast(arm_help, top_k(arm_harm, 40), strength=a) | floor(p=0.01)" in out
    assert "base + (1 - a)*arm_help + a*arm_harm | rerank(reward_help, k=10)" in out
    decoder = descant.compile("base + a*arm_help", MODELS, params={"a": 0})
    names = {"decoder": decoder, "prompt": "Hello.", "prompts": ["One.", "Two.", "Three."]}
    assert page.run("decoder.", names)


def test_the_evaluation_page() -> None:
    """Its other block is run with the harness."""
    decoder = descant.compile("base + a*arm_help", MODELS, params={"a": 0})
    names = {"decoder": decoder, "prompts": ["One.", "Two."], "completions": ["a", "b"]}
    assert Page("docs/evaluation.md").run("found", names)


def test_the_inspect_page() -> None:
    [(_, out)] = Page("docs/inspect.md").run()
    assert len(out.splitlines()) > 20


def test_the_loading_page(monkeypatch) -> None:
    """It takes 70 billion parameters and several processes, so its arguments alone are read."""
    parameters, arguments = inspect.signature(descant.compile).parameters, {}
    monkeypatch.setattr(descant, "compile", lambda formula, **named: arguments.update(named))
    Page("docs/loading.md").run(names={"descant": descant})
    assert set(arguments) <= set(parameters)
    assert make_spec("base", arguments["models"]["base"]).tp_plan == "auto"


def test_the_report_page(tmp_path) -> None:
    folder = tmp_path / "first"
    sweep(run_of(tmp_path), folder)
    Page("docs/report.md").run(replaced={"runs/first": str(folder)})
    assert (folder / "report.html").is_file()


def test_the_experiments_page(tmp_path) -> None:
    folder = tmp_path / "first"
    sweep(run_of(tmp_path), folder)
    [(_, printed)] = Page("docs/experiments.md").run(replaced={"runs/first": str(folder)})
    assert "[@xu2025genarm]" in printed and "SHA-256" in printed
