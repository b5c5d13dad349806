"""Shells complete ``descant``: their scripts are there, and a real bash completes with its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from descant.completion import LOOKED_AT, SHOWN, run_files

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Callable[[str], str]:
    """``shell(script)``: what a bash prints in which ``descant`` is this checkout's."""
    program = tmp_path_factory.mktemp("bin") / "descant"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m descant "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"

    def run(script: str) -> str:
        return subprocess.run(
            ["bash", "--norc", "-c", f"{script}\n:"], cwd=ROOT, env={**os.environ, "PATH": path},
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip

    return run


@pytest.fixture(scope="module")
def completed(shell) -> Callable[..., list[str]]:
    """``completed(*words)``: what bash completes the last word to."""

    def complete(*words: str) -> list[str]:
        array = " ".join(f"'{word}'" for word in words)
        return shell(
            'eval "$(_DESCANT_COMPLETE=source_bash descant)"\ncomplete -p descant\n'
            f"COMP_WORDS=({array}) COMP_CWORD={len(words) - 1}\n_descant_completion descant\n"
            "printf '%s\\n' \"${COMPREPLY[@]}\""
        ).splitlines()[1:]

    return complete


@pytest.mark.parametrize(
    ("name", "part"), [("bash", "complete -o default"), ("zsh", "compdef"), ("fish", "complete -c")]
)
def test_every_shell_has_a_script(shell, name, part):
    script = shell(f"_DESCANT_COMPLETE=source_{name} descant")
    assert part in script.replace("--command", "-c") and "_DESCANT_COMPLETE" in script
    program = shutil.which(name)
    if program:
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=20)


def test_the_script_of_the_shell_that_asks_is_shown(shell):
    assert "complete -o default -F _descant_completion descant" in shell(
        "descant --show-completion"
    )


def test_it_is_installed_into_a_home(shell, tmp_path):
    shell(f"export HOME={tmp_path}\ndescant --install-completion")
    assert "_descant_completion" in (tmp_path / ".bash_completions/descant.sh").read_text()
    assert "descant.sh" in (tmp_path / ".bashrc").read_text()


def test_a_shell_completes_commands_options_and_run_files(completed):
    assert {"run", "report"} <= set(completed("descant", "r"))
    assert completed("descant", "run", "--pro") == ["--prompt"]
    there = sorted(f"examples/{file.name}" for file in (ROOT / "examples").glob("s*.yaml"))
    assert completed("descant", "run", "examples/s") == there and len(there) > 1
    assert completed("descant", "sweep", "examples/sw") == ["examples/sweep.yaml"]


def test_run_files_are_found_below_and_a_limit_holds(tmp_path, monkeypatch):
    for file in (
        "a.yaml",
        "b.yml",
        "c.txt",
        ".d.yaml",
        "deep/e.yaml",
        "deep/er/f.yaml",
        "1/2/3/4.yaml",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.chdir(tmp_path)
    assert run_files("") == ["a.yaml", "b.yml", "deep/e.yaml", "deep/er/f.yaml"]
    assert run_files("deep/er/") == ["deep/er/f.yaml"]
    assert run_files("d") == ["deep/e.yaml", "deep/er/f.yaml"]
    assert run_files(f"{tmp_path}/a") == [f"{tmp_path}/a.yaml"]
    assert run_files(".d") == [".d.yaml"] and run_files("none") == run_files("/no/such/") == []
    for number in range(SHOWN + 1):
        (tmp_path / f"many{number}.yaml").touch()
    assert len(run_files("many")) == SHOWN < LOOKED_AT
