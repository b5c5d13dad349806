"""The real models, loaded once in each process: decoders, and transformers alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from plain_transformers import PlainModel

import descant

PROMPTS = {"pirate": "You are a pirate. You answer as a pirate does."}


@pytest.fixture(scope="session")
def plain_smol(smollm2: str) -> PlainModel:
    return PlainModel(smollm2)


@pytest.fixture(scope="session")
def plain_gem(gemma3: str) -> PlainModel:
    return PlainModel(gemma3)


@pytest.fixture(scope="session")
def smol(smollm2: str) -> Callable[[str], Any]:
    """``smol(formula)``: a decoder of a formula of SmolLM2 alone, in float32, made once."""
    return cache(
        lambda formula: descant.compile(
            formula, {"smol": smollm2}, prompts=PROMPTS if "@" in formula else None, dtype="float32"
        )
    )


@pytest.fixture(scope="session")
def gem(gemma3: str) -> Any:
    """Gemma 3 in float32."""
    return descant.compile("gem", {"gem": gemma3}, dtype="float32")
