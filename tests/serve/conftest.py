"""Servers over the demo models, and what they must answer: what the same formulas say offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import playground_site
import pytest
from servers import FILE, KEYS, YARD, Served, listening

import descant
from descant.demo import models as demo
from descant.inputs.runfile import RunFile, read_run_file
from descant.serve.protocol.limits import Limits


@pytest.fixture(scope="session")
def run_file() -> RunFile:
    return read_run_file(FILE).model_copy(update={"schemas": {"yard": YARD}})


@pytest.fixture(scope="session")
def served(run_file) -> Iterator[Served]:
    """A server that takes any formula."""
    limits = Limits(slots=4, max_model_len=256, max_tokens=200, max_formulas=4)
    with listening(run_file, limits, allow_formulas=True) as server:
        yield server


@pytest.fixture(scope="session")
def strict(run_file) -> Iterator[Served]:
    """A server with keys, two slots, a short queue and small limits, whose rows never end early."""
    limits = Limits(
        slots=2, max_model_len=256, max_queue=2, max_tokens=200, timeout=120, max_body=4096
    )
    run = run_file.model_copy(update={"generate": run_file.generate.model_copy()})
    run.generate.eos_token_id = [1023]
    with listening(run, limits, keys=KEYS) as server:
        yield server


@pytest.fixture(scope="session")
def offline(run_file) -> Callable[..., Any]:
    """``offline(name or formula, prompt, **arguments)``: the completions without a server.

    ``offline.decoder(name or formula)`` is what completes them.
    """
    made: dict[str, Any] = {}

    def decoder(formula: str) -> Any:
        text = run_file.named.get(formula, formula)
        if text not in made:
            made[text] = descant.compile(
                text, run_file.models, params=run_file.params, schemas=run_file.schemas
            )
        return made[text]

    def complete(formula: str, prompt: Any, **arguments: Any) -> list[Any]:
        return decoder(formula).generate(prompt, progress=False, **arguments)

    complete.decoder = decoder  # type: ignore[attr-defined]
    return complete


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Iterator[Served]:
    """A server for the playground, with a model whose every token is a piece of a web page."""
    run = playground_site.run_file(tmp_path_factory.mktemp("hostile"))
    with listening(run, Limits(), allow_formulas=True) as server:
        yield server


@pytest.fixture
def opened(chromium, site) -> Iterator[Callable[..., Any]]:
    """``opened(fragment, **context)``: the page; it asks nobody else, and stays well to the end."""
    browsers = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    browsers.expect.set_options(timeout=20_000)
    contexts, asked, wrong, at = [], [], [], [site.url]

    def open_(fragment="", address=None, refusals=0, cuts=False, **settings):
        contexts.append(chromium.new_context(**{"viewport": playground_site.DESKTOP, **settings}))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.asked, left = [], [refusals]

        def told(said):
            if said.type == "error" and left[0] and "status of 4" in said.text:
                left[0] -= 1
            elif said.type == "error" and not (cuts and "net::ERR_" in said.text):
                wrong.append(said.text)

        page.on("request", lambda request: (asked.append(request.url), page.asked.append(request)))
        page.on("console", told)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        at.append(address or site.url)
        page.goto(f"{at[-1]}/{fragment}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert all(url.startswith(tuple(at)) for url in asked), asked
    assert not wrong, wrong


@pytest.fixture(scope="session")
def alone() -> Callable[[str], Any]:
    """``alone(formula)``: its decoder, that no server knows of."""
    return cache(lambda formula: descant.compile(formula, models=demo(), params={"a": 0.5}))
