"""A service whose steps are recorded answers as one without, whoever comes and goes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from checkpoints import LORA, MODELS
from tape import Tape, on_tape

from descant.models import make_spec
from descant.runtime import Service

FORMULAS = (
    "base + 0.5*arm",
    "base + a*lora4 | top_k(20) | repetition_penalty(1.3)",
    "base | rerank(rm, k=4, w=1.5)",
    "where(step < 3, base, 0.7*arm)",
    "base + a*base@none | best_of(rm, n=2)",
)
WITH_A = {"a": 0.5}


@pytest.fixture(scope="module")
def specs(zoo) -> dict[str, Any]:
    named = {name: zoo.path(name) for name in MODELS} | {name: zoo.adapter(name) for name in LORA}
    return {name: make_spec(name, said) for name, said in named.items()}


def service_of(specs: dict[str, Any], live: Any = None) -> tuple[Service, list[Any]]:
    service = Service(specs, slots=6, max_model_len=96)
    decoders = [service.decoder(formula, WITH_A) for formula in FORMULAS]
    if live is not None:
        for decoder in decoders:
            live(decoder)
    return service, decoders


def answers(service: Service, decoders: list[Any]) -> list[list[int]]:
    """What requests of several formulas get that arrive one after the other."""
    requests: list[Any] = []
    ended: dict[int, list[int]] = {}

    def step() -> None:
        updated = service.step()
        if service.failures:
            raise service.failures[0]
        for answer in updated:
            assert answer.error is None
            if answer.finish_reason is not None:
                ended[id(answer.request)] = list(answer.tokens)

    for number in range(15):
        decoder = decoders[number % len(decoders)]
        prompt = [1, *range(5 + number, 9 + 2 * number)]
        requests += service.submit(
            decoder, prompt, max_new_tokens=6 + 3 * (number % 4), temperature=0.8 * (number % 2),
            seed=number, eos_token_id=list(range(0, 300, 17)), params={"a": number / 7},
        )  # fmt: skip
        for _ in range(number % 3 + 1):
            step()
    while service.busy:
        step()
    return [ended[id(request)] for request in requests]


def test_a_recorded_service_answers_as_one_without(specs, monkeypatch) -> None:
    expected = answers(*service_of(specs))
    live = on_tape(monkeypatch)
    service, decoders = service_of(specs, live)
    assert answers(service, decoders) == expected
    assert sum(tape.replays for tape in Tape.made) > 2 * len(Tape.made) > 10
    assert answers(service, decoders) == expected


def test_a_warm_service_replays_from_the_first_request_on(specs, monkeypatch) -> None:
    expected = answers(*service_of(specs))
    live = on_tape(monkeypatch)
    service, decoders = service_of(specs, live)
    service.warm_up()
    lanes = {id(lane.lane): lane.lane for d in decoders for lane in d.session.bound.lanes
             if hasattr(lane, "lane")}  # fmt: skip
    made = [lane.recordings.made for lane in lanes.values()]
    assert len(made) == 2 and all(made)
    assert answers(service, decoders) == expected
    assert [lane.recordings.made for lane in lanes.values()] == made  # each formula's own may come


def test_a_formula_that_joins_takes_the_forwards_that_are_recorded(specs, monkeypatch) -> None:
    live = on_tape(monkeypatch)
    service = Service(specs, slots=4, max_model_len=96)
    first = live(service.decoder("base + 0.5*arm"))
    service.warm_up()
    lanes = [lane.lane for lane in first.session.bound.lanes]
    made = [lane.recordings.made for lane in lanes]
    second = live(service.decoder("base - 0.2*arm"))
    requests = service.submit(second, [1, 5, 9], max_new_tokens=9, eos_token_id=[])
    tokens: list[int] = []
    while service.busy:
        tokens = [list(answer.tokens) for answer in service.step()][-1:] or tokens
    assert [lane.recordings.made for lane in lanes] == made and requests
    alone = Service(specs, slots=4, max_model_len=96)
    monkeypatch.undo()
    [completion] = (
        alone.decoder("base - 0.2*arm")
        .alone()
        .generate([[1, 5, 9]], max_new_tokens=9, eos_token_id=[])
    )
    assert tokens == [completion.token_ids]


@pytest.mark.parametrize("formula", ["base + b*arm", 'base + base@"Hello."'])
def test_what_cannot_be_warmed_up_is_left_to_its_requests(specs, monkeypatch, formula) -> None:
    live = on_tape(monkeypatch)
    service = Service(specs, slots=2, max_model_len=96)
    live(service.decoder(formula, {"b": 1.0} if "b*" in formula else None))
    service.warm_up()
    assert not service.busy and not service.failures


def test_a_formula_that_fails_when_it_is_warmed_up_does_not_stop_the_service(
    specs, monkeypatch, caplog
) -> None:
    live = on_tape(monkeypatch)
    service = Service(specs, slots=2, max_model_len=96)
    for formula in ("min(top_k(base, 1), top_k(arm, 1))", "base + 0.5*arm"):
        live(service.decoder(formula))
    with caplog.at_level(logging.WARNING, "descant"):
        service.warm_up()
    [message] = [each for each in caplog.messages if "first requests" in each]
    assert "every token is excluded" in message and not service.busy
    assert service.submit(service._decoders[1], [1, 5], max_new_tokens=3, eos_token_id=[])
    while service.busy:
        assert all(answer.error is None for answer in service.step())
