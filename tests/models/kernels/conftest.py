"""A process in which Triton's interpreter runs the kernels: what was imported here has none."""

from __future__ import annotations

import importlib.util
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import interpreted
import pytest


@pytest.fixture(scope="module")
def process() -> Iterator[ProcessPoolExecutor]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("pip install triton: it has wheels for Linux")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, interpreted.prepare) as pool:
        yield pool
