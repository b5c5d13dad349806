"""Servers over the demo models, and what they must answer: what the same formulas say offline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import FILE, Served, listening

import descant
from descant.runfile import RunFile, read_run_file
from descant.serve.limits import Limits


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
