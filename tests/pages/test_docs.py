"""The pages agree with the code: tables, links, run files, command lines. Doctests run too."""

import doctest
import importlib
import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer
from doc_pages import ROOT, Page

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
from descant.sweep import settings_of

MODELS = models()
COMMANDS = typer.main.get_command(app).commands


def table(kind: str, classes: Mapping[str, type[Signature]]) -> str:
    """The stages or the operators of the language, from the classes that are their signatures."""
    lines = [f"| {kind} | does |", "|---|---|"]
    for cls in classes.values():
        lines.append(f"| `{usage(cls)}` | {' '.join((cls.__doc__ or '').split())} |")
    return "\n".join(lines)


@pytest.mark.parametrize(("kind", "classes"), [("stage", STAGES), ("operator", OPERATORS)])
def test_the_tables_are_the_codes_own(kind, classes):
    assert table(kind, classes) in Page("docs/language.md").text


LINKED = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
LINKED += [*sorted((ROOT / "examples").rglob("*.md")), *sorted((ROOT / "examples").glob("*.ipynb"))]
LINKED += [ROOT / "bench/README.md", *sorted((ROOT / "descant/demo").glob("*weights/README.md"))]


@pytest.mark.parametrize("file", LINKED, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file):
    assert Page(file).lost_links() == []


def test_a_lost_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](page.md#one) [b](page.md#two) [c](#one) [d](#two) [e](no.md)\n")
    assert Page(page).lost_links() == ["page.md#two", "#two", "no.md"]


CODE = r"(?:bench|descant|docs|examples|formula|grammar|models|runtime|tests)/[\w./-]+\.\w+"


@pytest.mark.parametrize("file", LINKED, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_that_a_page_names_exist(file):
    if file.name != "CHANGELOG.md":  # which tells of files that are gone
        named = set(re.findall(rf"`({CODE})`", Page(file).text))
        assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def modules() -> list[str]:
    """The package's modules: those in its own folder, and those of the rooms beside it."""
    folders = {"descant": [str(Path(descant.__file__).parent)]}
    for room in ("grammar", "formula", "models", "runtime"):
        package = importlib.import_module(f"descant.{room}")
        folders[package.__name__] = list(package.__path__)
    names = {"descant"}
    for name, paths in folders.items():
        names |= {module.name for module in pkgutil.walk_packages(paths, f"{name}.")}
    return sorted(names - {"descant.__main__"})


@pytest.mark.parametrize("name", modules())
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_what_the_loading_page_declares_can_be_declared():
    blocks = Page("docs/loading.md").code("yaml", "models:")
    assert len(blocks) >= 3
    for block in blocks:
        models = load_yaml(block)["models"]
        assert list(validated({"formula": "+".join(models), "models": models}, "here").models)


def test_the_run_files_of_the_pages_are_run_files():
    [run, effects, tables] = map(load_yaml, Page("docs/sweeps.md").code("yaml"))
    dpo = {f"dpo_{side}": MODELS[f"arm_{side}"] for side in ("help", "harm")}
    run |= {"models": {**MODELS, **dpo}, **effects}
    assert [one.name for one in settings_of(validated(run, "here"))] == [*run["formulas"]]
    scored = run | {"score": {"reward": "reward_help"}, "front": {}}
    swept = scored | {"params": {"a": 0.5, "w": 1, "k": 10}, "formulas": {"args": "base"}}
    for name, pivot in tables["tables"].items():
        over = {"w": [1], "k": [10], "temperature": [0, 1]}
        validated(swept | {"sweep": over, "tables": {name: pivot}}, "here")
    for block in Page("docs/rewards.md").code("yaml"):
        assert len(settings_of(validated(load_yaml(block), "here"))) == 1


def test_the_points_and_scores_of_the_page_are_points_and_scores():
    def rows(key: str) -> list[dict]:
        lines = re.search(rf"\| `{key}:` \|.*?\n\n", Page("docs/sweeps.md").text, re.S)[0]
        return [
            load_yaml(re.match(r"\| `(.*?)` \|", row)[1]) for row in lines.splitlines()[2:] if row
        ]

    assert [len(points_of(row)) for row in rows("sweep")] == [6, 11, 11, 20, 2]
    score = {name: one for row in rows("score") for name, one in row.items()}
    run = {"formulas": {"weak": "base", "ceiling": "large"}, "models": MODELS, "score": score}
    assert set(validated(run, "here").score) == set(score)


TYPED = [Path("README.md"), *(f.relative_to(ROOT) for f in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", TYPED, ids=lambda file: file.stem)
def test_the_command_lines_of_a_page_can_be_typed(page):
    for name, *words in Page(page).commands():
        assert name in COMMANDS, name
        params = COMMANDS[name].params
        options = {option for one in params for option in (*one.opts, *one.secondary_opts)}
        options |= {"--help"}
        if name != "eval":  # its options are the harness' own
            typed = {word.partition("=")[0].strip("[]") for word in words}
            assert {word for word in typed if word.startswith("--")} <= options, words


def test_the_readme_names_every_command():
    assert {words[0] for words in Page("README.md").commands()} == set(COMMANDS)
