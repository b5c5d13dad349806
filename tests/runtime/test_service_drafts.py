"""Drafts in a service: every token is the one that the formula draws without them, alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
from checkpoints import LORA, MODELS

import descant
from descant.errors import ArgumentError
from descant.models import make_spec
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime import Service
from descant.runtime.engine import engine as engines

FORMULAS = [  # and who drafts for them
    ("base + a*arm", "base"),
    ("base + a*arm", None),
    ("base + a*lora4 - 0.3*base@none", "base + lora4"),
    ("base | top_k(40)", "arm | top_k(40)"),
    ("base + a*lora4", "prompt"),
    ("base + a*arm", "auto"),
    ("where(entropy(base) > 4, base + a*arm, base) | repetition_penalty(1.2)", "base"),
    ("base | best_of(rm, n=2)", "base"),
    ("base + a*lora4 | blockwise(arm, beams=2, samples=1, length=3)", "base"),
]


@pytest.fixture(scope="module")
def specs(zoo) -> dict[str, Any]:
    named = {name: zoo.path(name) for name in MODELS} | {name: zoo.adapter(name) for name in LORA}
    return {name: make_spec(name, said) for name, said in named.items()}


def asked(count: int) -> list[tuple[int, list[int], dict[str, Any]]]:
    """Requests: which formula, a prompt, and settings."""
    generator, made = random.Random(7), []
    for seed in range(count):
        prompt = [generator.randrange(3, 300) for _ in range(generator.choice([1, 3, 8, 21]))] * 2
        settings = {
            "max_new_tokens": generator.randrange(1, 24), "seed": seed, "eos_token_id": [7, 90],
            "temperature": generator.choice([0.0, 0.3, 1.0]), "params": {"a": 0.1},
        }  # fmt: skip
        made.append((generator.randrange(len(FORMULAS)), prompt, settings))
    return made


@pytest.fixture(scope="module")
def expected(specs) -> list[list[int]]:
    alone = [descant.compile(text, specs, params={"a": 0.5}) for text, _ in FORMULAS]
    return [
        alone[which].generate(prompt, **settings)[0].token_ids
        for which, prompt, settings in asked(50)
    ]


def tokens_of(service: Service, fails: bool = False) -> list[list[int]]:
    """What the requests draw, which come at random."""
    decoders = [service.decoder(text, {"a": 0.5}, draft=draft) for text, draft in FORMULAS]
    generator, waiting = random.Random(1), list(enumerate(asked(50)))
    found: dict[int, list[int]] = {}
    submitted: dict[int, tuple[int, Any]] = {}
    while waiting or service.busy:
        for _ in range(generator.randrange(0, 4)):
            if waiting:
                number, (which, prompt, settings) = waiting.pop(0)
                if FORMULAS[which][1] is not None:
                    settings["draft_length"] = generator.choice(["adaptive", 1, 3, 16])
                [request] = service.submit(decoders[which], prompt, **settings)
                submitted[id(request)] = number, request
        updated = service.step()
        assert fails or not service.failures
        for answer in updated:
            if answer.finish_reason:
                assert answer.error is None
                found[submitted[id(answer.request)][0]] = answer.tokens
    return [found[number] for number in range(50)]


def test_every_answer_is_that_of_the_formula_alone(specs, expected) -> None:
    service = Service(specs, slots=5, max_model_len=128)
    assert tokens_of(service) == expected
    rounds, drafted, accepted = service.draft_counts()
    assert rounds > 20 and drafted > accepted > 20


@pytest.mark.pages
def test_where_pages_lack_too(specs, expected, monkeypatch) -> None:
    """A draft is left out before anybody waits; those who wait go on where they were."""
    monkeypatch.setattr(TransformersLane, "page_size", 16)
    monkeypatch.setattr(engines, "room", lambda *_: 160)
    service = Service(specs, slots=5, max_model_len=96)
    assert tokens_of(service) == expected
    assert service.preempted > 0 and service.draft_counts()[2] > 20


@pytest.mark.pages
def test_after_steps_that_fail(specs, expected, monkeypatch) -> None:
    """The rows are read again, without what was drafted when the step failed."""
    original, forward, calls = Service.step, TransformersLane._forward, [0]

    def failing(self: Service) -> Any:
        calls[0] += 1
        if calls[0] % 9 == 0:

            def once(*arguments: Any, **options: Any) -> Any:
                monkeypatch.setattr(TransformersLane, "_forward", forward)
                raise RuntimeError("a device that has a bad moment")

            monkeypatch.setattr(TransformersLane, "_forward", once)
        return original(self)

    monkeypatch.setattr(Service, "step", failing)
    service = Service(specs, slots=5, max_model_len=128)
    assert tokens_of(service, fails=True) == expected
    assert calls[0] > 18 and service.draft_counts()[2] > 20


def test_a_request_has_the_draft_of_its_decoder_or_none(specs) -> None:
    service = Service(specs, slots=2, max_model_len=64)
    decoder = service.decoder("base + arm", draft="base")
    [request] = decoder.requests([5, 6], max_new_tokens=4)
    assert request.draft is not None and request.draft.source == "base"
    [request] = decoder.requests([5, 6], max_new_tokens=4, draft=None)
    assert request.draft is None
    with pytest.raises(ArgumentError, match="draft is arm, and base drafts for this decoder"):
        decoder.requests([5, 6], draft="arm")
    with pytest.raises(ArgumentError, match="draft_length is 17; here it is at most 16"):
        decoder.requests([5, 6], max_new_tokens=4, draft_length=17)
