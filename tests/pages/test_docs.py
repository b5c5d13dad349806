"""The documents say what the code does: snippets run, tables and plans are the code's own."""

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from sweeps import run_of

import descant
from descant.cli import app
from descant.demo import models
from descant.formula import STAGES
from descant.formula.words.arguments import usage
from descant.formula.words.operators import OPERATORS
from descant.formula.words.signature import Signature
from descant.inputs.grid import points_of
from descant.inputs.runfile import validated
from descant.inputs.yaml import load_yaml
from descant.models import make_spec
from descant.sweep import settings_of, sweep

ROOT = Path(__file__).parents[2]
MODELS = models()
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
    subs = [
        m.name for m in found if m.name not in ("descant.__main__", "examples.demo_models.recipe")
    ]
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


RUN_BY = {  # where the Python of a page is run
    "cookbook": "pages/test_cookbook.py",
    "evaluation": "harness/test_harness_model.py",
    "how-do-i": "pages/test_how_do_i.py",
    "inspect": "pages/test_docs.py",
    "language": "pages/test_docs.py",
    "loading": "pages/test_docs.py",
    "migrating": "pages/test_migrating.py",
    "prompts": "pages/test_prompts_page.py",
    "report": "pages/test_docs.py",
    "serving": "serve/test_served_process.py",
    "training": "train/test_training_page.py",
    "transformers": "pages/test_transformers_page.py",
}


def blocks(name: str, language: str = "python") -> list[str]:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def test_the_python_of_every_page_is_run_somewhere():
    pages = {file.stem for file in (ROOT / "docs").glob("*.md") if blocks(file.stem)}
    assert pages == set(RUN_BY)
    for name, file in RUN_BY.items():
        assert f"{name}.md" in (ROOT / "tests" / file).read_text(encoding="utf-8")


def test_what_else_the_pages_show_runs(monkeypatch):
    """docs/language.md, docs/inspect.md, docs/evaluation.md and docs/loading.md."""
    decoder = descant.compile("base + a*arm_help", MODELS, params={"a": 0})
    space = {"decoder": decoder, "prompt": "Hello.", "prompts": ["One.", "Two.", "Three."]}
    [numbers] = [code for code in blocks("language") if code.startswith("decoder.")]
    exec(compile(numbers, "language.md", "exec"), space)
    [likely] = [code for code in blocks("evaluation") if code.startswith("found")]
    exec(compile(likely, "evaluation.md", "exec"), space | {"completions": ["a", "b", "c"]})
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        [code] = blocks("inspect")
        exec(compile(code, "inspect.md", "exec"), {})
    assert len(out.getvalue().splitlines()) > 20
    [code], parameters = blocks("loading"), inspect.signature(descant.compile).parameters
    asked = {}
    monkeypatch.setattr(descant, "compile", lambda formula, **given: asked.update(given))
    exec(compile(code, "loading.md", "exec"), {"descant": descant})
    assert set(asked) <= set(parameters)  # it takes 70 billion parameters and several processes
    assert make_spec("base", asked["models"]["base"]).tp_plan == "auto"


def test_the_report_page_writes_a_report(tmp_path):
    folder = tmp_path / "first"
    sweep(run_of(tmp_path), folder)
    [code] = blocks("report")
    exec(compile(code.replace("runs/first", str(folder)), "report.md", "exec"), {})
    assert (folder / "report.html").is_file()


def test_the_run_files_of_the_pages_are_run_files():
    [run, tables] = (load_yaml(code) for code in blocks("sweeps", "yaml"))
    dpo = {f"dpo_{side}": MODELS[f"arm_{side}"] for side in ("help", "harm")}
    run |= {"models": {**MODELS, **dpo}}
    assert [one.name for one in settings_of(validated(run, "here"))] == [*run["formulas"]]
    scored = run | {"score": {"reward": "reward_help"}, "front": {}}
    swept = scored | {"params": {"a": 0.5, "w": 1, "k": 10}, "formulas": {"args": "base"}}
    for name, table in tables["tables"].items():
        over = {"w": [1], "k": [10], "temperature": [0, 1]}
        validated(swept | {"sweep": over, "tables": {name: table}}, "here")
    [rewards] = (load_yaml(code) for code in blocks("rewards", "yaml"))
    assert len(settings_of(validated(rewards, "here"))) == 1


def test_the_points_and_scores_of_the_page_are_points_and_scores():
    text = (ROOT / "docs/sweeps.md").read_text(encoding="utf-8")
    rows = re.search(r"\| `sweep:` \|.*?\n\n", text, re.S)[0].strip().splitlines()[2:]
    found = [len(points_of(load_yaml(re.match(r"\| `(.*?)` \|", row)[1]))) for row in rows]
    assert found == [6, 11, 11, 20, 2]
    rows = re.search(r"\| `score:` \|.*?\n\n", text, re.S)[0].strip().splitlines()[2:]
    score = {k: v for row in rows for k, v in load_yaml(re.match(r"\| `(.*?)` \|", row)[1]).items()}
    run = {"formulas": {"weak": "base", "ceiling": "large"}, "models": MODELS, "score": score}
    assert set(validated(run, "here").score) == set(score)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[list[str]]:
    """The command lines of descant in a page's blocks, and between single backticks."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)
    shown = "\n".join(block for language, block in fenced if language in ("", "sh", "bash"))
    lines = re.findall(r"^(?:.*-m )?descant ([a-z].*)$", shown, re.M)
    lines += re.findall(r"`descant ([a-z][^`\n]*)`", text)
    return [shlex.split(re.split(r"  +|\s#", line)[0]) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda file: file.stem)
def test_the_command_lines_of_a_page_can_be_typed(page):
    known = typer.main.get_command(app).commands
    for name, *words in commands(page.read_text(encoding="utf-8")):
        assert name in known, name
        options = {option for one in known[name].params for option in one.opts} | {"--help"}
        if name != "eval":  # its options are the harness' own
            given = {word.partition("=")[0].strip("[]") for word in words}
            assert {word for word in given if word.startswith("--")} <= options, words


def test_the_readme_names_every_command():
    named = {words[0] for words in commands(README)}
    assert named == set(typer.main.get_command(app).commands)
