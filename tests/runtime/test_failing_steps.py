"""A step that raises: it ends the requests that it raises for, and the others draw on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from checkpoints import LORA, MODELS

from descant import TableModel
from descant.models import make_spec
from descant.runtime import Service

POISON = 299  # a token that the model cannot read
FORMULAS = [
    "base + a*arm",
    "base + a*lora4 - 0.3*base@none | repetition_penalty(1.2)",
    "base + a*lora8 | rerank(rm, k=4, w=1.5)",
    "base | best_of(rm, n=2)",
    "base | particles(rm, n=2, length=3)",
    "arm | reject(rm, target=0.5, entropy=3, longest=5, retries=3)",
    'base | regex("([^x]|[^x]x)*")',
]


class Unreadable(TypeError):
    """Nothing of ours."""


@pytest.fixture(scope="module")
def specs(zoo) -> dict[str, Any]:
    named = {name: zoo.path(name) for name in MODELS} | {name: zoo.adapter(name) for name in LORA}
    return {name: make_spec(name, said) for name, said in named.items()}


@contextmanager
def raising(
    service: Service, when: Callable[[Any], bool], times: float = float("inf")
) -> Iterator[list[int]]:
    """Every model raises in a forward whose ids ``when`` is true of, so many times."""
    raised: list[int] = []

    def hook(module: Any, ids: Any) -> None:
        if len(raised) < times and when(ids[0]):
            raised.append(len(ids[0]))
            raise Unreadable("a row cannot be read")

    models = [m for m in service._pool.weights.values() if isinstance(m, torch.nn.Module)]
    hooks = [model.get_input_embeddings().register_forward_pre_hook(hook) for model in models]
    yield raised
    for each in hooks:
        each.remove()


def holds(token: int) -> Callable[[Any], bool]:
    return lambda ids: bool((ids == token).any())


def finished(service: Service) -> dict[int, Any]:
    """Every answer that ended, by the id of its request."""
    ended = {}
    for _ in range(2000):
        if not service.busy:
            return ended
        ended |= {id(a.request): a for a in service.step() if a.finish_reason}
    raise AssertionError("it does not end")


def settings(seed: int, **more: Any) -> dict[str, Any]:
    temperature = 0.0 if seed % 3 == 0 else 1.0
    return {"max_new_tokens": 14, "temperature": temperature, "seed": seed, "eos_token_id": [],
            "params": {"a": 0.5}, **more}  # fmt: skip


@pytest.mark.pages(ahead=1)
@pytest.mark.parametrize("ahead", [0, 1])
def test_neighbours_of_a_poisoned_prompt_draw_what_they_would_alone(specs, ahead) -> None:
    service = Service(specs, slots=12, max_model_len=96)
    decoders = [service.decoder(text, {"a": 0.5}) for text in FORMULAS]
    for decoder in decoders:
        if not decoder.session.bound.plan.search:
            decoder.session.engine.ahead = ahead
    asked = [(number % len(FORMULAS), [5 + number, 9, 8], settings(number)) for number in range(7)]
    expected = [
        decoders[which].alone().generate(prompt, **more)[0].token_ids
        for which, prompt, more in asked
    ]
    assert not any(POISON in tokens for tokens in expected)
    requests = [service.submit(decoders[which], prompt, **more)[0] for which, prompt, more in asked]
    with raising(service, holds(POISON)) as raised:
        for _ in range(4):
            service.step()
        [bad] = service.submit(decoders[0], [7, POISON, 3], **settings(50))
        [late] = service.submit(decoders[1], [5, 9, 8], **settings(0))
        ended = finished(service)
    assert raised
    assert [ended[id(request)].tokens for request in requests] == expected
    assert isinstance(ended[id(bad)].error, Unreadable) and ended[id(bad)].finish_reason == "error"
    assert ended[id(late)].error is None and len(ended[id(late)].tokens) == 14
    assert service.running == service.waiting == 0


def test_a_row_that_fails_in_the_middle_fails_alone(specs) -> None:
    """It is not the newest: it is found by halves."""
    service = Service(specs, slots=6, max_model_len=96)
    decoder = service.decoder("base + a*arm", {"a": 0.5})
    asked = [([5 + number, 9, 8], settings(number, max_new_tokens=20)) for number in range(5)]
    expected = [decoder.alone().generate(p, **more)[0].token_ids for p, more in asked]
    poison = next(t for t in expected[1][4:] if sum(t in tokens for tokens in expected) == 1)
    requests = [service.submit(decoder, prompt, **more)[0] for prompt, more in asked]
    with raising(service, holds(poison)):
        ended = finished(service)
    for number, request in enumerate(requests):
        answer = ended[id(request)]
        if number == 1:
            assert isinstance(answer.error, Unreadable)
            assert answer.tokens == expected[1][: expected[1].index(poison) + 1]
        else:
            assert answer.error is None and answer.tokens == expected[number]


@pytest.mark.pages
def test_a_search_that_fails_in_the_middle_fails_alone(specs) -> None:
    service = Service(specs, slots=8, max_model_len=96)
    search, plain = service.decoder("base | best_of(rm, n=2)"), service.decoder("arm")
    asked = [
        (search, [5, 9, 8], settings(1, params=None)), (plain, [6, 9, 8], settings(2, params=None)),
        (search, [7, 9, 8], settings(4, params=None)),
    ]  # fmt: skip
    alone = [
        decoder.alone().generate(prompt, **more)[0].token_ids for decoder, prompt, more in asked
    ]
    requests = [service.submit(decoder, prompt, **more)[0] for decoder, prompt, more in asked]
    poison = next(t for t in alone[0][5:-1] if t not in alone[1] and t not in alone[2])
    mine = set()

    def when(ids: Any) -> bool:
        return bool((ids == poison).any()) and bool(mine)

    with raising(service, when):
        for _ in range(3):
            service.step()
        mine.add(1)
        ended = finished(service)
    assert isinstance(ended[id(requests[0])].error, Unreadable)
    assert ended[id(requests[1])].tokens == alone[1]
    third = ended[id(requests[2])]
    assert third.tokens == alone[2] if third.error is None else isinstance(third.error, Unreadable)


def test_a_failure_by_chance_ends_nobody(specs) -> None:
    service = Service(specs, slots=4, max_model_len=96)
    decoder = service.decoder("base + a*arm", {"a": 0.5})
    asked = [([5 + number, 9, 8], settings(number)) for number in range(3)]
    expected = [decoder.alone().generate(p, **more)[0].token_ids for p, more in asked]
    requests = [service.submit(decoder, prompt, **more)[0] for prompt, more in asked]
    for _ in range(3):
        service.step()
    with raising(service, lambda ids: True, times=1):
        service.step()
        assert [type(error) for error in service.failures] == [Unreadable]
        ended = finished(service)
    assert service.failures == []
    assert [ended[id(request)].tokens for request in requests] == expected


def test_too_many_rows_at_once_cost_the_newest(specs) -> None:
    """Each can be decoded alone, and all of them together cannot, as with too little memory."""
    service = Service(specs, slots=6, max_model_len=96)
    decoder = service.decoder("base")
    asked = [([5 + number, 9, 8], settings(number, params=None)) for number in range(5)]
    expected = [decoder.alone().generate(p, **more)[0].token_ids for p, more in asked]
    requests = [service.submit(decoder, prompt, **more)[0] for prompt, more in asked]
    with raising(service, lambda ids: len(ids) > 3):
        ended = finished(service)
    errors = [ended[id(request)].error is not None for request in requests]
    assert errors == [False] * 3 + [True] * 2
    for number in range(3):
        assert ended[id(requests[number])].tokens == expected[number]


def test_what_fails_for_everybody_is_raised(specs) -> None:
    service = Service(specs, slots=4, max_model_len=96)
    decoder = service.decoder("base")
    for number in range(3):
        service.submit(decoder, [5 + number, 9], **settings(number, params=None))
    service.step()
    with raising(service, lambda ids: True), pytest.raises(Unreadable):
        service.step()


def test_two_poisoned_prompts_and_nobody_else_are_no_broken_device(specs) -> None:
    service = Service(specs, slots=4, max_model_len=96)
    decoder = service.decoder("base")
    with raising(service, holds(POISON)):
        [alone] = service.submit(decoder, [POISON, 4], **settings(0, params=None))
        assert isinstance(finished(service)[id(alone)].error, Unreadable)
        [good] = service.submit(decoder, [5, 4], **settings(0, params=None))
        assert finished(service)[id(good)].error is None
        bad = [service.submit(decoder, [POISON, n], **settings(n, params=None))[0] for n in (4, 5)]
        ended = finished(service)
        assert all(isinstance(ended[id(each)].error, Unreadable) for each in bad)
        [good] = service.submit(decoder, [5, 4], **settings(0, params=None))
        assert finished(service)[id(good)].error is None


def test_who_is_cancelled_while_a_step_fails_is_gone(specs) -> None:
    service = Service(specs, slots=4, max_model_len=96)
    decoder = service.decoder("base")
    [one] = service.submit(decoder, [5, 4], **settings(0, params=None))
    [two] = service.submit(decoder, [6, 4], **settings(3, params=None))
    service.step()
    service.cancel(one)
    with raising(service, lambda ids: True, times=1):
        ended = finished(service)
    assert list(ended) == [id(two)]
    expected = decoder.alone().generate([6, 4], **settings(3, params=None))[0].token_ids
    assert ended[id(two)].tokens == expected


def test_a_table_and_a_tokenizer_that_raises() -> None:
    """Also what is no forward: here the text of a row that is looked at for stop strings."""

    class Tokenizer:
        def decode(self, ids: Any, **_: Any) -> str:
            if 3 in ids:
                raise Unreadable("no text")
            return "x" * len(ids)

    table = torch.zeros(8, 8)
    table[1, 2], table[2, 1], table[4, 5], table[5, 3], table[3, 3] = 9, 9, 9, 9, 9
    service = Service({"base": make_spec("base", TableModel(table))}, slots=3, max_model_len=64)
    decoder = service.decoder("base")
    more = {"max_new_tokens": 6, "eos_token_id": []}
    [good] = service.submit(decoder, [1], **more)
    [bad] = service.submit(decoder, [4], **more)
    for request in (good, bad):
        object.__setattr__(request, "stops", ("never",))
    object.__setattr__(decoder.session.bound, "tokenizer", Tokenizer())
    ended = finished(service)
    assert ended[id(good)].tokens == [2, 1, 2, 1, 2, 1]
    assert isinstance(ended[id(bad)].error, Unreadable)
