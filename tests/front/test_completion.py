"""Shells complete ``descant``: a real bash, and a real zsh and fish where there are such."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/installing.md").read_text(encoding="utf-8")
BY_HAND = {  # the lines that the page says, by shell
    name: re.search(rf"^.*source_{name} descant\S*(?: \| source)?", PAGE, re.M)[0]
    for name in ("bash", "zsh", "fish")
}


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory) -> dict[str, str]:
    """An environment in which ``descant`` is this checkout's, and the home is empty."""
    program = tmp_path_factory.mktemp("bin") / "descant"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m descant "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    home = str(tmp_path_factory.mktemp("home"))
    return {**os.environ, "PATH": path, "HOME": home, "TERM": "dumb"}


@pytest.fixture(scope="module")
def shell(surroundings) -> Callable[[str], str]:
    """``shell(script)``: what a bash prints."""

    def run(script: str) -> str:
        return subprocess.run(
            ["bash", "--norc", "-c", f"{script}\n:"], cwd=ROOT, env=surroundings,
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout  # fmt: skip

    return run


def typed(command: list[str], setup: str, text: str, rest: str, env: dict[str, str]) -> str:
    """What a shell on a terminal makes of a text and Tab, after a line that sets it up."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execvpe(command[0], command, env)

    def read(until: str, seconds: float) -> str:
        found, end = "", time.monotonic() + seconds
        while until not in found and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                found += os.read(terminal, 65536).decode()
        return found

    try:
        os.write(terminal, f"{setup}; echo rea''dy\n".encode())
        assert "ready" in read("ready", 30)
        os.write(terminal, f"{text}\t".encode())
        return read(f"{text}{rest}", 20)
    finally:
        os.close(terminal)  # which ends the shell
        os.waitpid(child, 0)


@pytest.fixture(scope="module")
def completed(shell) -> Callable[..., list[str]]:
    """``completed(*words)``: what bash completes the last word to."""

    def complete(*words: str) -> list[str]:
        array = " ".join(f"'{word}'" for word in words)
        return shell(
            f"{BY_HAND['bash']}\ncomplete -p descant\n"
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


def test_a_shell_completes_commands_and_options(completed):
    assert {"run", "report"} <= set(completed("descant", "r"))
    assert completed("descant", "run", "--pro") == ["--prompt"]
    assert completed("descant", "run", "examples/s") == [""]  # the shell's own files


@pytest.mark.parametrize("command", ["run", "explain"])
def test_bash_offers_run_files(surroundings, command):
    """Where a command takes a file, Tab completes it as bash completes every file."""
    words = f"descant {command} examples/sw"
    assert f"{words}eep.yaml" in typed(
        ["bash", "--norc", "-i"], f"PS1=; {BY_HAND['bash']}", words, "eep.yaml ", surroundings
    )


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_completes(surroundings):
    """By the page's line for it, and from the first Tab on."""
    setup = f"PS1=; autoload -Uz compinit; compinit -u -D; {BY_HAND['zsh']}"
    found = typed(["zsh", "-f", "-i"], setup, "descant expl", "ain ", surroundings)
    assert "descant explain " in found


@pytest.mark.skipif(shutil.which("fish") is None, reason="there is no fish")
def test_fish_completes(surroundings):
    asked = [
        f"{BY_HAND['fish']}",
        'complete -C "descant expl"',
        'complete -C "descant run examples/sw"',
    ]
    found = subprocess.run(
        ["fish", "--no-config", "-c", "; ".join(asked)], cwd=ROOT, env=surroundings,
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [line.split("\t")[0] for line in found] == ["explain", "examples/sweep.yaml"]
