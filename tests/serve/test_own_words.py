"""Words of one's own in a server: those that it was started with, in its processes alike."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from servers import COMMAND, ENVIRONMENT, FILE, ROOT, started

import descant
from descant.inputs.runfile import read_run_file

FORMULAS = [
    "contrast(base, arm_help, strength=2)",
    "swaying(base, arm_help) + 0.5*base",
    "swaying(base, arm_help, by=0.5) | sharpened(power=2)",
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    path = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(ROOT / "tests")])
    before, ENVIRONMENT["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"], path
    options = ("--import", "own_words", "--allow-formulas", "--slots", "4")
    try:
        with started(*options) as (url, _):
            yield url
    finally:
        ENVIRONMENT["PYTHONPATH"] = before


def asked(address: str, formula: str, **more: Any) -> httpx.Response:
    body = {"model": formula, "prompt": ["Hello", "To begin, rest"], "max_tokens": 12, **more}
    return httpx.post(f"{address}/v1/completions", json={"temperature": 0, **body}, timeout=60)


def test_it_decodes_with_the_words_it_was_started_with(address, own_words) -> None:
    """As one process does, and no request keeps a state for the next."""
    models = read_run_file(FILE).models
    for formula in FORMULAS * 2:
        found = [choice["text"] for choice in asked(address, formula).json()["choices"]]
        decoder = descant.compile(formula, models)
        prompts = ["Hello", "To begin, rest"]
        assert found == [out.text for out in decoder.generate(prompts, max_new_tokens=12)]


def test_a_request_names_no_module(address) -> None:
    answer = asked(address, "contrst(base, arm_help)")
    assert answer.status_code in (400, 404) and "did you mean contrast?" in answer.text
    for formula in ("import(os)", "os.system(base)", "base | import(os)"):
        assert asked(address, formula).status_code in (400, 404)
    for key in ("import", "imports"):
        assert asked(address, FORMULAS[0], **{key: ["os"]}).status_code == 400


def test_a_module_that_is_not_there_ends_it_at_once() -> None:
    words = [*COMMAND, "--import", "nothing_here"]
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 2 and "there is no module nothing_here" in done.stderr
