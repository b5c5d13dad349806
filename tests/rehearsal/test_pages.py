"""What keys and values in pages take of a GPU: the pool, who has how much of it, and what is found.

A text costs what it is long, the pool is allocated once, and what was read is not read again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch

from descant.models import make_spec
from descant.runtime.batch import memory
from descant.runtime.service import Service
from rehearsal import Launch, Rehearsal
from rehearsal.formulas import models
from rehearsal.models import SHAPES, layers_over
from rehearsal.patches import caches, lanes_of, page_bytes

H200, PAGE = 141 * 10**9, 256
DEVICE = torch.device("cuda", 0)


@contextmanager
def gpu_of(size: int) -> Iterator[Rehearsal]:
    """A rehearsal on a GPU of so many bytes, which knows what is held on it."""
    with Rehearsal() as gpu:

        def known(*device: Any) -> tuple[int, int]:
            return size - gpu.memory.held(DEVICE), size

        with patch.object(torch.cuda, "mem_get_info", known):
            yield gpu


def pools(decoder: Any) -> list[int]:
    """Bytes of the pages of each lane."""
    return [sum(x.nbytes for x in caches(lane)) for lane in lanes_of(decoder.session.bound)]


def token_bytes(shape: str) -> int:
    hidden, _, layers, heads, groups, _ = SHAPES[shape]
    return 2 * layers * groups * hidden // heads * 2


def test_256_rows_of_mixed_lengths_fit_where_their_tokens_fit() -> None:
    """An eighth of 7B's layers, and an H200's share of that; half a page of each row is empty.

    With all layers, as many rows of 2,048 tokens would take 275 GB.
    """
    draw = random.Random(0).random
    lengths = [int(6 * 680 ** draw()) for _ in range(256)]
    size, live, each = H200 // 7, sum(lengths), token_bytes("llama-2-7b") // 8
    assert max(lengths) > 3500 and 2048 * len(lengths) * each > size > live * each
    with gpu_of(size) as gpu:
        model = gpu.language_model("llama-2-7b", layers=4)
        decoder = gpu.compile("m", {"m": model}, capture=False)
        fits = memory.fitting_tokens(decoder.session.bound, 0.9, len(lengths), max(lengths))
        [step] = gpu.steps(decoder, lengths, 1, max_new_tokens=2, distinct=True)
        peak = gpu.memory.peak(DEVICE)
    assert step.live == live * each  # all of them are in it
    assert sum(-(-(length + 2) // PAGE) for length in lengths) * PAGE <= fits
    assert peak <= 0.9 * size


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_pool_is_within_the_share(share) -> None:
    """More requests than fit: the pool takes what weights and work leave, to a page."""
    with gpu_of(H200) as gpu:
        model = gpu.language_model("llama-2-7b", layers=4)
        decoder = gpu.compile("m", {"m": model}, gpu_memory_utilization=share)
        engine, bound = decoder.session.engine, decoder.session.bound
        engine.empty(512, 4096)
        [pool], page = pools(decoder), page_bytes(decoder)
        weights, _, work = memory.peak_bytes(bound, 512, 4096)
        assert pool + weights + work <= share * H200 < pool + weights + work + 3 * page
        fits = memory.fitting_tokens(bound, share, 512, 4096)
        assert 0 <= fits - (pool // page - 1) * PAGE <= 2 * PAGE  # as the plan says


def service_of(gpu: Rehearsal, specs: Any, slots: int = 4, length: int = 512) -> Service:
    made = {name: make_spec(name, said) for name, said in specs.items()}
    return Service(made, slots=slots, max_model_len=length, device="cuda")


def answered(service: Service, formula: str, tokens: int = 3) -> Any:
    """A formula of a service, and a request of it answered."""
    decoder = service.decoder(formula)
    service.submit(decoder, [5, 6, 7], max_new_tokens=tokens, eos_token_id=[])
    while service.busy:
        service.step()
        assert not service.failures
    return decoder


def test_the_pool_is_allocated_once_in_a_service() -> None:
    """Thirty formulas one after the other, the first of which stays."""
    with gpu_of(10**10) as gpu:
        service, peaks = service_of(gpu, models(gpu)), []
        first = pools(answered(service, "m + x"))
        for number in range(30):
            decoder = answered(service, f"m + {number + 1}/10*x")
            assert pools(decoder) == first
            service.forget(decoder)
            peaks.append(gpu.memory.peak(DEVICE))
    assert peaks[2:] == [peaks[2]] * 28


def test_formulas_that_come_later_have_pages_too() -> None:
    """The first could take all there is; models that it does not name, and rewards, need some."""
    with gpu_of(size := 4 * 10**9) as gpu:
        service, sizes = service_of(gpu, models(gpu), slots=256, length=16384), []
        for formula in ("m", "m + x", "m + y | rerank(r, k=4)", "x | rerank(r, k=4)"):
            sizes.append(pools(answered(service, formula)))
        assert all(pool > 0 for each in sizes for pool in each)
        assert sizes[0][0] == sizes[1][0] == sizes[2][0]  # the lane of m keeps its own
        assert gpu.memory.peak(DEVICE) <= 0.9 * size


def test_a_model_alone_in_a_service_has_all_of_it() -> None:
    with gpu_of(10**9) as gpu:
        declared = {"m": gpu.language_model("tiny"), "a": gpu.lora("m")}
        decoder = answered(service_of(gpu, declared, 256, 16384), "m + a")
        assert sum(pools(decoder)) > 0.75 * 10**9  # work and weights have 0.15


def test_rewards_have_pages_beside_language_models() -> None:
    with gpu_of(10**9) as gpu:
        declared = {"m": gpu.language_model("tiny"), "r": gpu.reward_model("tiny")}
        decoder = gpu.compile("m | rerank(r, k=4)", declared)
        steps = gpu.run(decoder, [300, 300], 3, slots=2)
        assert steps and len(set(pools(decoder))) == 1


def test_models_over_several_devices_go_by_masks_and_say_so() -> None:
    with Rehearsal() as gpu:
        model = gpu.language_model("tiny", layers=4, device_map=layers_over(2, 4))
        decoder = gpu.compile("m", {"m": model})
        gpu.steps(decoder, [40, 60], 3, room=128)
        assert "its weights are on several devices" in str(decoder.plan)


def recorded_by(gpu: Rehearsal, decoder: Any, length: int) -> int:
    """Recordings that a run of four rows makes."""
    before = decoder.session.engine.graphs.made
    gpu.run(decoder, [length] * 4, 8, distinct=True)
    return decoder.session.engine.graphs.made - before


def test_longer_texts_are_recorded_again_once_in_a_while() -> None:
    """Room is taken in steps, of an eighth to a quarter."""
    with Rehearsal() as gpu:
        decoder = gpu.compile("m", {"m": gpu.language_model("tiny")})
        made = [recorded_by(gpu, decoder, length) for length in range(2048, 8192, 512)]
    assert made[0] == 2 and sum(made) // 2 <= 9 < len(made)


def admission(shared: int, on: bool) -> tuple[list[Launch], int, int]:
    """Of a prompt that begins as one before it: launches that read it, bytes of pages that are
    copied, and of a page."""
    prompts = [[3] * shared + [last] * (1224 - shared) for last in (5, 6)]
    prompts.append([7] * 1600)  # it is read first, and its pages are taken before the others'
    with Rehearsal() as gpu:
        model = gpu.language_model("llama-2-7b", layers=4)
        decoder = gpu.compile("m", {"m": model}, enable_prefix_caching=on)
        decoder.generate(prompts, max_new_tokens=4, eos_token_id=[], progress=False, batch_size=1)
        [*_, step] = [step for step in gpu.done if any(launch.prompt for launch in step.launches)]
        beside = [launch for launch in step.launches if not launch.prompt]
        copies = [each for each in beside if each.name == "_foreach_copy_"]
        copied = sum(each.written for each in copies if "paged_cache" in each.place)
        return [launch for launch in step.launches if launch.prompt], copied, page_bytes(decoder)


@pytest.mark.parametrize(("shared", "pages", "found"), [(1024, 0, 1024), (1000, 1, 992)])
def test_what_was_read_is_not_read_again(shared, pages, found) -> None:
    """Whole pages are shared; of what ends within a page, the page is copied, all layers at once.

    What is found are units of 16 tokens.
    """
    all_of_it, nothing, _ = admission(shared, False)
    rest, copied, page = admission(shared, True)
    assert (nothing, copied) == (0, pages * page)
    assert len(rest) == len(all_of_it)  # one chunk each
    flops, fewer = (
        sum(launch.flops for launch in each if launch.kind == "product")
        for each in (all_of_it, rest)
    )
    assert fewer == pytest.approx(flops * (1223 - found) / 1223, rel=0.02)
    assert sum(launch.bytes for launch in rest) < sum(launch.bytes for launch in all_of_it)
