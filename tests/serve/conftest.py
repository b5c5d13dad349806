"""Servers over the demo models, and what they must answer: what the same formulas say offline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import playground_site
import pytest
from servers import FILE, Served, listening

import descant
from descant.demo import models as demo
from descant.inputs.runfile import RunFile, read_run_file
from descant.serve.protocol.limits import Limits


@pytest.fixture(scope="session")
def run_file() -> RunFile:
    return read_run_file(FILE)


@pytest.fixture(scope="session")
def served(run_file) -> Iterator[Served]:
    """A server that takes any formula."""
    limits = Limits(slots=4, max_model_len=256, max_tokens=200, max_formulas=4)
    with listening(run_file, limits, allow_formulas=True) as found:
        yield found


@pytest.fixture(scope="session")
def offline(run_file) -> Callable[..., Any]:
    """``offline(name or formula, prompt, **arguments)``: the completions without a server."""
    made: dict[str, Any] = {}

    def complete(formula: str, prompt: Any, **arguments: Any) -> list[Any]:
        text = run_file.named.get(formula, formula)
        if text not in made:
            made[text] = descant.compile(text, run_file.models, params=run_file.params)
        return made[text].generate(prompt, progress=False, **arguments)

    return complete


@pytest.fixture(scope="session")
def sites(tmp_path_factory) -> Iterator[Callable[..., Any]]:
    """``sites(**options)``: the address of a server with a playground, and the server."""
    pytest.importorskip("fastapi", reason="pip install descant[serve]")
    from descant.serve.frontend.server import Server

    browsers = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    browsers.expect.set_options(timeout=20_000)
    run = playground_site.run_file(tmp_path_factory.mktemp("hostile"))
    with ExitStack() as stack:
        made: dict[str, Any] = {}

        def site(**options: Any) -> Any:
            key = json.dumps(options)
            if key not in made:
                server = Server(run, **options)
                made[key] = stack.enter_context(playground_site.served(server)), server
            return made[key]

        yield site


@pytest.fixture
def site(sites) -> Any:
    return sites(allow_formulas=True)


@pytest.fixture
def opened(chromium, site) -> Iterator[Callable[..., Any]]:
    """``opened(place, **context)``: the page; at the end it has asked nobody else, and is well."""
    contexts, asked, wrong, at = [], [], [], [site[0]]

    def open_(place="", address=None, refusals=0, cuts=False, **settings):
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
        at.append(address or site[0])
        page.goto(f"{at[-1]}/{place}")
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
