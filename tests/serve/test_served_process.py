"""``descant serve`` as a stranger starts it: its page of documentation, curl, and its shutdown."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "serve.yaml"
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
LONG = {"model": "base", "prompt": "How do I boil eggs?", "max_tokens": 200, "temperature": 0,
        "stream": True}  # fmt: skip
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@contextmanager
def started(*options: str, **environment: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server's address and its process, which ends with this at the latest."""
    command = [sys.executable, "-m", "descant", "serve", str(FILE), "--port", "0", *options]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**ENVIRONMENT, **environment}
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"running on (http://[\d.:]+)", line):
                break
        else:
            pytest.fail("".join(said))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it can write
        yield found[1], process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with started("--allow-formulas", "--slots", "4") as (url, _):
        yield url


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_pages_curl_examples(address) -> None:
    commands = re.findall(r"^curl .*?(?<!\\)$", PAGE, re.M | re.S)
    assert len(commands) >= 5
    answers = []
    for command in commands:
        shell = command.replace("http://127.0.0.1:8000", address)
        done = subprocess.run(
            ["bash", "-c", f"{shell} --fail-with-body -sS"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        answers.append(done.stdout)
    told = "".join(answers)
    for part in ('"object":"list"', "data: [DONE]", '"score":', "descant_slots 4.0", '"choices":'):
        assert part in told


def test_the_pages_python(address, capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) >= 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block.replace("http://127.0.0.1:8000", address), "serving.md", "exec"), names)
    assert len(capsys.readouterr().out) > 40


def test_the_pages_options_are_the_commands() -> None:
    import click
    import typer

    from descant.cli import app

    command = typer.main.get_command(app)
    assert isinstance(command, click.Group)
    options = {name for one in command.commands["serve"].params for name in one.opts}
    asked = re.search(r"## Options\n(.*?)\n## ", PAGE, re.S)[1]
    written = set(re.findall(r"`(--[a-z-]+)", asked))
    assert written == {name for name in options if name.startswith("--")} - {"--set"}


@pytest.mark.slow
def test_on_sigterm_what_is_in_flight_is_finished() -> None:
    with started(DESCANT_API_KEY="secret") as (url, process):
        headers = {"authorization": "Bearer secret"}
        assert httpx.post(f"{url}/v1/completions", json=LONG).status_code == 401
        whole = httpx.post(f"{url}/v1/completions", json=LONG, headers=headers, timeout=60)
        with httpx.stream(
            "POST", f"{url}/v1/completions", json=LONG, headers=headers, timeout=60
        ) as stream:
            lines = stream.iter_lines()
            told = [next(lines)]
            process.send_signal(signal.SIGTERM)
            refused = None
            while refused is None or refused.status_code == 200:
                refused = httpx.get(f"{url}/health")
            assert refused.status_code == 503
            late = httpx.post(f"{url}/v1/completions", json=LONG, headers=headers)
            assert late.status_code == 503
            assert "shutting down" in late.json()["error"]["message"]
            told += lines

    def text(lines: list[str]) -> str:
        return "".join(re.findall(r'"text": ?"((?:[^"\\]|\\.)*)"', "\n".join(lines)))

    assert told[-2:] == ["data: [DONE]", ""] and text(told) == text(whole.text.splitlines())
    assert process.returncode is not None


@pytest.mark.slow
def test_a_shutdown_does_not_wait_for_ever() -> None:
    with started("--shutdown-timeout", "0") as (url, process):
        with httpx.stream("POST", f"{url}/v1/completions", json=LONG, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            told = "".join(lines)
        assert "the server is shutting down" in told
        assert process.wait(30) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "formulas.arms=base + bsae"), "did you mean base?"),
        (("--set", "models.base.path=/nowhere"), "/nowhere"),
        (("--api-key", ""), "--api-key is empty"),
    ],
)
def test_mistakes_are_said_before_it_listens(options, said) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "descant", "serve", str(FILE), *options],
        capture_output=True, text=True, timeout=100, env=ENVIRONMENT,
    )  # fmt: skip
    assert found.returncode == 2 and said in found.stderr and "Traceback" not in found.stderr
