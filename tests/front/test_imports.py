"""Words of one's own, where the command line finds them: who starts it says so, and nobody else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import command as descant_command

import descant.imports as imports
from descant.errors import ArgumentError
from descant.formula.words.operators import OPERATORS

WORDS = """
import descant

@descant.operator
def tilted(x, y, by=1.0):
    return x + by*y
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder with a module of words and a run file, in which commands are started."""
    (tmp_path / "my_words.py").write_text(WORDS)
    weights = Path(descant_command.__code__.co_filename).parents[1] / "descant/demo/weights"
    run = {
        "formula": "tilted(base, arm, by=a)",
        "models": {name: str(weights / name) for name in ("base", "small")},
        "params": {"a": 0.5},
        "generate": {"max_new_tokens": 4},
    }
    run["formula"] = "tilted(base, small, by=a)"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    monkeypatch.chdir(tmp_path)
    path = [*sys.path]
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("my_words", None)
    imports._imported.clear()


OPTION = ("--import", "my_words")


def test_a_command_finds_what_it_is_told_to_import(folder) -> None:
    explained = descant_command("explain", "tilted(base, small)", *OPTION)
    assert explained.returncode == 0 and "tilted(base, small)" in explained.stdout
    assert "1 in tilted(…)" in explained.stdout
    ran = descant_command("run", "run.yaml", "--prompt", "Hello", *OPTION)
    assert ran.returncode == 0, ran.stderr
    inspected = descant_command("inspect", "run.yaml", "Hello", *OPTION)
    assert inspected.returncode == 0 and "tilted" in inspected.stdout


@pytest.mark.parametrize(
    "arguments", [("explain", "run.yaml"), ("run", "run.yaml", "--prompt", "H")]
)
def test_without_it_the_word_is_unknown(folder, arguments) -> None:
    found = descant_command(*arguments)
    assert found.returncode == 2
    assert "there is no operator tilted" in found.stderr and "^^^^^^" in found.stderr
    assert "descant docs how-do-i#extending" in found.stderr
    assert "my_words" not in sys.modules


@pytest.mark.parametrize("key", ["import", "imports", "--import", "operators", "generate.import"])
def test_a_run_file_imports_nothing(folder, key) -> None:
    run = yaml.safe_load((folder / "run.yaml").read_text())
    where = run["generate"] if key.startswith("generate.") else run
    where[key.rpartition(".")[2]] = ["my_words"]
    (folder / "bad.yaml").write_text(yaml.safe_dump(run))
    found = descant_command("run", "bad.yaml", "--prompt", "Hello")
    assert found.returncode == 2 and key.rpartition(".")[2] in found.stderr
    set_ = descant_command("run", "run.yaml", "--prompt", "Hello", "--set", f"{key}=my_words")
    assert set_.returncode == 2
    for formula in ("import(my_words)", "my_words.tilted(base, small)", "base | import(my_words)"):
        assert descant_command("explain", formula).returncode == 2
    assert "my_words" not in sys.modules and "tilted" not in OPERATORS


@pytest.mark.parametrize(
    ("source", "name", "problem"),
    [
        (None, "nothing_here", "--import nothing_here: there is no module nothing_here; give the"),
        (None, "my words", "--import my words: 'my words' is not a module's name; give the name"),
        (None, "./my_words.py", "is not a module's name"),
        ("1/0", "bad_words", "--import bad_words fails: ZeroDivisionError: division by zero"),
        ("import nothing_here", "bad_words", "--import bad_words: there is no module nothing_here"),
        (WORDS.replace("x + by*y", "x - x.mean()"), "bad_words",
         "--import bad_words: the operator tilted gives a row other scores beside another row"),
        (WORDS.replace("tilted", "plausible"), "bad_words",
         "--import bad_words: plausible is a word of the language already"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_said(folder, source, name, problem) -> None:
    if source:
        (folder / "bad_words.py").write_text(source)
    found = descant_command("explain", "base", "--import", name)
    assert found.returncode == 2 and problem in found.stderr
    sys.modules.pop("bad_words", None)


def test_a_file_here_stands_for_no_package(folder) -> None:
    (folder / "yaml.py").write_text("raise SystemExit('run')")
    found = descant_command("explain", "base", "--import", "yaml")
    assert found.returncode == 0 and sys.modules["yaml"].__file__ != str(folder / "yaml.py")


def installed(folder: Path, value: str) -> None:
    """A package with an entry point, as pip leaves it."""
    info = folder / "packages" / "words_of_mine-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: words-of-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[descant.operators]\nmine = {value}\n")


def test_an_installed_package_is_found_by_its_entry_point(folder, monkeypatch) -> None:
    installed(folder, "packaged_words")
    (folder / "packages" / "packaged_words.py").write_text(WORDS)
    monkeypatch.syspath_prepend(folder / "packages")
    explained = descant_command("explain", "tilted(base, small)")
    assert explained.returncode == 0 and "1 in tilted(…)" in explained.stdout
    assert descant_command("explain", "--help").returncode == 0
    sys.modules.pop("packaged_words")


def test_an_entry_point_that_fails_names_its_package(folder, monkeypatch) -> None:
    installed(folder, "gone_words")
    monkeypatch.syspath_prepend(folder / "packages")
    with pytest.raises(ArgumentError) as caught:
        imports.import_words()
    assert str(caught.value) == (
        "the entry point mine of descant.operators: there is no module gone_words; "
        "fix or uninstall the package words-of-mine"
    )
    assert descant_command("--version").returncode == 0  # no formula, nothing to import
    assert descant_command("explain", "--help").returncode == 0


def test_every_command_with_a_formula_has_the_option() -> None:
    import typer

    from descant.cli import app

    commands: Any = typer.main.get_command(app)
    having = {
        name
        for name, each in commands.commands.items()
        if any("--import" in option.opts for option in each.params)
    }
    assert having == {"explain", "run", "sweep", "fit", "inspect", "serve", "eval"}
