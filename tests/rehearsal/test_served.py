"""The same rules in a service, where formulas share the forwards of their models."""

from __future__ import annotations

from typing import Any

import pytest

from descant.models import make_spec
from descant.runtime.service import Service
from rehearsal import Rehearsal, Step
from rehearsal.formulas import models

FORMULAS = ("m + 0.5*x", "m + 0.5*a | top_k(20)", "m | rerank(r, k=5, w=1.5)")


def served(count: int = 4) -> list[Step]:
    """The steps of a service that is warm, with a request of each formula, once all decode."""
    with Rehearsal() as gpu:
        declared = models(gpu)
        specs = {name: make_spec(name, said) for name, said in declared.items()}
        service = Service(specs, slots=4, max_model_len=256, device="cuda")
        settings: dict[str, Any] = {"max_new_tokens": 100, "temperature": 0.7, "eos_token_id": []}
        decoders = [service.decoder(formula) for formula in FORMULAS]
        service.warm_up()
        for number, decoder in enumerate(decoders):
            service.submit(decoder, [3] * 30 + [number + 5], **settings)
        while service.running < len(FORMULAS):
            service.step()
        for _ in range(count + 1):
            service.step()
            assert not service.failures
        return gpu.accounts[-1 - count : -1]


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    return served()


def test_nothing_is_copied_to_the_device_and_nothing_waited_for(steps) -> None:
    assert [(step.h2d, step.waits, step.stalls) for step in steps] == [([], [], [])] * len(steps)


def test_formulas_share_a_forward(steps) -> None:
    """The weights of each model are read once, however many formulas name it."""
    for step in steps:
        read = sum(launch.weights for launch in step.launches)
        assert 0.98 * step.weights <= read <= 1.02 * step.weights


def test_all_formulas_copy_their_tokens_together(steps) -> None:
    assert [len(step.d2h) for step in steps] == [1] * len(steps)


def test_steps_are_replayed(steps) -> None:
    """Each forward once for all formulas, and what follows it for each formula."""
    assert {step.mode for step in steps} == {"replayed"}
    assert {step.replayed for step in steps} == {2 + len(FORMULAS)}
