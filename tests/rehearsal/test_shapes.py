"""Shapes of published checkpoints: time over the floor, caches that are read, memory held."""

from __future__ import annotations

from typing import Any

import pytest

from rehearsal import Rehearsal, Step
from rehearsal.models import SHAPES, layers_over
from rehearsal.patches import planned_bytes

RAGGED = (1900, *[256] * 7)


def replayed(shape: str, lengths: Any) -> Step:
    with Rehearsal() as gpu:
        decoder = gpu.compile("m", {"m": gpu.language_model(shape)})
        return gpu.steps(decoder, lengths, 3, temperature=1.0)[-1]


@pytest.fixture(scope="module")
def ragged() -> Step:
    return replayed("llama-2-7b", RAGGED)


def test_the_live_part_of_a_cache_is_what_texts_have(ragged) -> None:
    assert ragged.live == sum(length + 2 for length in RAGGED) * 2 * 32 * 4096 * 2


def test_attention_reads_what_is_live(ragged) -> None:
    assert sum(launch.caches for launch in ragged.attention) <= 1.2 * ragged.live


def test_rows_of_very_different_lengths_take_little_more_than_the_floor(ragged) -> None:
    assert ragged.over_floor() <= 1.2


@pytest.mark.parametrize(("rows", "most"), [(1, 1.2), (64, 1.25)])
def test_rows_of_8b_take_little_more_than_the_floor(rows, most) -> None:
    assert replayed("llama-3.1-8b", [256] * rows).over_floor() <= most


@pytest.mark.parametrize(("shape", "rows", "length"), [
    ("llama-2-7b", 1, 2030), ("llama-3.1-8b", 4, 500),
])  # fmt: skip
def test_memory_is_what_the_plan_says(shape, rows, length) -> None:
    """Different prompts as long as there is room for, read and continued for two tokens."""
    with Rehearsal() as gpu:
        decoder = gpu.compile("m", {"m": gpu.language_model(shape)})
        lengths = [length - row for row in range(rows)]
        gpu.steps(decoder, lengths, 2, room=length + 10, distinct=True)
        planned, measured = planned_bytes(decoder, rows), gpu.memory.peak()
    assert measured <= planned <= 1.3 * measured


def test_memory_of_70b_over_eight_devices() -> None:
    """Weights and caches are on all of them; the plan says what they hold together."""
    layers = SHAPES["llama-2-70b"][2]
    with Rehearsal() as gpu:
        model = gpu.language_model("llama-2-70b", device_map=layers_over(8, layers))
        decoder = gpu.compile("m", {"m": model})
        [*_, step] = gpu.steps(decoder, [500], 1, room=510)
        planned, measured = planned_bytes(decoder, 1), gpu.memory.peak()
        assert len(gpu.memory.devices()) == 8 and step.launches
    assert measured <= planned <= 1.3 * measured
