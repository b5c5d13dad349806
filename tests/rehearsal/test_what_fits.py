"""What fits into the memory of GPUs, on one and on several: the plan says it, batches are refused.

What is held is counted here anew: parameters by their devices, keys and values by the shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch

import descant
from descant.models.cache_config import CacheConfig
from descant.runtime import Report
from descant.runtime.batch import memory
from descant.show.explain import PlanArguments
from rehearsal import Rehearsal
from rehearsal.models import SHAPES, layers_over

H200 = 141 * 10**9
CONTEXT, PAGE = 512, 256
FREE = 10**15


@contextmanager
def gpus_of(size: int) -> Iterator[Rehearsal]:
    """A rehearsal on GPUs of so many bytes."""
    with Rehearsal() as gpu, patch.object(torch.cuda, "mem_get_info", lambda *device: (size, size)):
        yield gpu


def token_bytes(shape: str, layers: int) -> int:
    """Keys and values of one token of one row, in so many layers, in bfloat16."""
    hidden, _, _, heads, groups, _ = SHAPES[shape]
    return 2 * layers * groups * hidden // heads * 2


def work(decoder: Any, slots: int, tokens: int) -> int:
    return memory.peak_bytes(decoder.session.bound, slots, tokens)[2]


@pytest.mark.parametrize("share", [0.9, 0.5])
@pytest.mark.parametrize(("formula", "rows"), [("m", 1), ("m + 0.5*m@none", 2)])
def test_one_gpu(formula, rows, share) -> None:
    with gpus_of(H200) as gpu:
        model = gpu.language_model("llama-3.1-8b")
        decoder = gpu.compile(formula, {"m": model}, gpu_memory_utilization=share)
        text = str(decoder.plan)
        bound = decoder.session.bound
        fits = memory.fitting_tokens(bound, share, 1, CONTEXT)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    each = rows * token_bytes("llama-3.1-8b", 32)
    scratch = PAGE * token_bytes("llama-3.1-8b", 32)  # a page of the lane belongs to nobody
    taken = weights + work(decoder, 1, CONTEXT) + scratch + fits * each
    assert taken <= share * H200 < taken + each
    says = (
        f"fits        {fits:,} tokens in {share:.0%} of 141 GB: {fits // CONTEXT} requests of 512"
    )
    assert says in text


def test_the_rows_of_a_search_are_tokens_too() -> None:
    with gpus_of(H200) as gpu:
        models = {"m": gpu.language_model("tiny"), "r": gpu.reward_model("tiny")}
        decoder = gpu.compile("m | best_of(r, n=4)", models)
        fits = memory.fitting_tokens(decoder.session.bound, 0.9, 4, CONTEXT)
        assert f": {fits // (4 * CONTEXT)} requests of 512 tokens" in str(decoder.plan)


def test_nothing_fits_beside_weights_that_do_not() -> None:
    with gpus_of(10**10) as gpu:
        decoder = gpu.compile("m", {"m": gpu.language_model("llama-3.1-8b")})
        assert "fits        0 tokens in 90% of 10 GB: 0 requests of 512 tokens" in str(decoder.plan)


def uneven() -> dict[str, str]:
    """Llama 2 70B on four devices: three have 12 of its layers each, the last one 44."""
    layout = layers_over(4, 80)
    for layer in range(80):
        layout[f"model.layers.{layer}"] = f"cuda:{min(layer // 12, 3)}"
    return layout


def test_of_several_gpus_the_one_that_is_full_first_counts() -> None:
    with gpus_of(H200) as gpu:
        model = gpu.language_model("llama-2-70b", device_map=uneven())
        decoder = gpu.compile("m", {"m": model})
        fits = memory.fitting_tokens(decoder.session.bound, 0.9, 1, CONTEXT)
        text = str(decoder.plan)
    weights: Counter[int] = Counter()
    for parameter in model.parameters():
        weights[parameter.device.index] += parameter.numel() * parameter.element_size()
    assert weights[3] == max(weights.values())
    each = token_bytes("llama-2-70b", 44)
    taken = weights[3] + work(decoder, 1, CONTEXT) + fits * each
    assert taken <= 0.9 * H200 < taken + each
    assert f"{fits:,} tokens in 90% of 141 GB on each of 4 GPUs" in text


def test_a_batch_is_refused_by_the_device_that_has_no_room_for_its_layers() -> None:
    """The first device has any amount of room, and the last what 44 layers of 20 rows need."""
    with gpus_of(H200) as gpu:
        decoder = gpu.compile(
            "m", {"m": gpu.language_model("llama-2-70b", device_map=uneven())}, capture=False
        )
        bound, full = decoder.session.bound, torch.device("cuda:3")
        room = 20 * CONTEXT * token_bytes("llama-2-70b", 44) + work(decoder, 20, CONTEXT)

        def free(device: torch.device) -> int:
            return room if device == full else FREE

        with patch.object(memory, "free_bytes", free):
            room_for(bound, 20)
            with pytest.raises(descant.ModelError, match=r"are free on cuda:3") as caught:
                room_for(bound, 24)
        assert "batch_size=20 fits" in str(caught.value)
        room, full = 10**8, torch.device("cuda:0")
        with (
            patch.object(memory, "free_bytes", free),
            pytest.raises(descant.ModelError, match=r"are free on cuda:0"),
        ):
            room_for(bound, 20)


def room_for(bound: Any, slots: int) -> int:
    """Tokens of so many rows."""
    return memory.room(bound, slots, CONTEXT, 1.0, slots * CONTEXT)


def test_a_plan_that_is_explained_counts_on_the_default_device(demo_models) -> None:
    """Shapes alone, as ``descant explain`` reads them where there is a GPU."""
    plan = PlanArguments("base + arm_help", demo_models, {}, {})
    bound = replace(plan.bound(), device="cuda")
    footprints = [lane.footprint() for lane in bound.lanes]
    assert {held.device.type for each in footprints for held in each.memory.values()} == {"meta"}
    total = 10**9
    with patch.object(torch.cuda, "mem_get_info", lambda *device: (total, total)):
        fits = memory.fitting_tokens(bound, 0.5, 1, CONTEXT)
        text = Report(bound, {}, cache=CacheConfig(True, 0.5)).text(1e9)
    weights, caches, room = memory.peak_bytes(bound, 1, CONTEXT)
    each = caches // CONTEXT
    assert weights + room + fits * each <= 0.5 * total < weights + room + (fits + 1) * each
    assert f"fits        {fits:,} tokens in 50% of 1 GB: " in text


def test_a_cpu_has_no_such_line(compiled) -> None:
    decoder = compiled("base")
    assert memory.fitting_tokens(decoder.session.bound, 0.9, 1, CONTEXT) is None
    assert "\nfits  " not in str(decoder.plan)
