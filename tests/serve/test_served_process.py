"""``descant serve`` as a stranger starts it: its page of documentation, curl, and its end."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from doc_pages import Page
from servers import FILE, started

PAGE = Page("docs/serving.md")
WRITTEN = "http://127.0.0.1:8000"  # the address of the page


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with started("--allow-formulas", "--slots", "4") as (url, _):
        yield url


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_pages_curl_examples(address) -> None:
    curls = "\n".join(PAGE.code("bash", "curl "))
    commands = curls.strip().split("\n\n")
    assert len(commands) >= 5
    answers = []
    for command in commands:
        shell = command.replace(WRITTEN, address)
        done = subprocess.run(
            ["bash", "-c", f"{shell} --fail-with-body -sS"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        answers.append(done.stdout)
    told = "".join(answers)
    for part in ('"object":"list"', "data: [DONE]", '"score":', "descant_slots 4.0", '"choices":'):
        assert part in told


def test_the_pages_python(address) -> None:
    printed = PAGE.run(replaced={WRITTEN: address})
    assert len(printed) >= 2 and len("".join(out for _, out in printed)) > 40


def test_the_pages_options_are_the_commands() -> None:
    import typer

    from descant.cli import app

    command: Any = typer.main.get_command(app)
    params = command.commands["serve"].params
    options = {name.strip() for one in params for name in (*one.opts, *one.secondary_opts)}
    written = set(re.findall(r"`(--[a-z-]+)", PAGE.section("Options")))
    assert written == {name for name in options if name.startswith("--")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"set_": ["formulas.arms=base + bsae"]}, "did you mean base"),
        ({"set_": ["models.base.path=/nowhere"]}, "/nowhere"),
        ({"set_": ["merge={soup: arm_help}"]}, "descant sweep"),
        ({"api_key": [""]}, "--api-key is empty"),
    ],
)
def test_mistakes_are_said_before_it_listens(options, said) -> None:
    from descant.serve.command import serve

    with pytest.raises(ValueError, match=said):
        serve(FILE, **options)


def test_a_plain_install_says_what_it_needs(monkeypatch) -> None:
    from descant.extras import pip_install
    from descant.serve.command import serve

    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ValueError, match=re.escape(f"needs fastapi: {pip_install('serve')}")):
        serve(FILE)
