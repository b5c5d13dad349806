"""Steps whose tokens the kernels for sums draw, beside the same steps by torch's operations."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import interpreted
import pytest

import descant

PROMPTS = ["The weather is", "Once upon a time", "I"]
SAMPLED = {"temperature": [0.0, 0.8, 1.3], "seed": [1, 2, 3]}


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("pip install triton: it has wheels for Linux")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, interpreted.prepare) as pool:
        yield pool


@pytest.mark.parametrize(("formula", "settings"), [
    ("base", {}),
    ("base + 0.5*arm_help - 0.25*arm_harm", {}),
    ("1.5*base - 0.5*base@none | top_k(40) | top_p(0.9) | temperature(0.7)", {}),
    ("base + arm_help | min_p(0.05)", {"top_p": [0.5, 1.0, 0.9], "top_k": [0, 5, 3]}),
    ("mix(0.5: base, 0.5: arm_help) | top_p(0.8)", {}),
    ("base | rerank(reward_help, k=4, w=1.5)", {"repetition_penalty": [1.0, 1.3, 1.0]}),
    ("(1 + js(base, arm_help))*base | temperature(1 + 0.1*entropy(base)) | top_k(9)", {}),
])  # fmt: skip
def test_tokens_are_those_of_torch(formula, settings, demo_models, process) -> None:
    settings: Any = {**SAMPLED, "max_new_tokens": 6, **settings}
    found = process.submit(interpreted.tokens, formula, PROMPTS, **settings).result()
    decoder = descant.compile(formula, demo_models)
    assert found == [each.token_ids for each in decoder.generate(PROMPTS, **settings)]
