"""Coroutines: what they decode together is what ``generate`` decodes, and leaving frees the row."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from checkpoints import LORA

import descant
from descant.async_service import AsyncService
from descant.errors import ArgumentError, StateError
from descant.models import make_spec
from descant.runtime import Service

PROMPTS = ["The", "a quick brown fox", "once upon a time there was", "12 34"]


@pytest.fixture
def decoder(zoo) -> Any:
    models = {"base": zoo.path("base"), "arm": zoo.path("arm"), "rm": zoo.path("rm")}
    models |= {name: zoo.adapter(name) for name in LORA}
    return descant.compile("base + a*arm", models, params={"a": 0.5}, dtype="float32")


async def pieces(decoder: Any, prompt: Any, **arguments: Any) -> list[str]:
    return [piece async for piece in decoder.astream(prompt, **arguments)]


async def until(condition: Any) -> None:
    """Wait for something that another thread does."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def service_of(decoder: Any) -> Service:
    return decoder._asynchronous._service.service


def test_calls_that_run_together_give_what_generate_gives(decoder) -> None:
    options = [
        {"seed": 1, "temperature": 0.9, "params": {"a": 0.1}},
        {"seed": 2, "temperature": 1.3, "stop_strings": "e"},
        {"max_new_tokens": 5, "logit_bias": {40: 9}, "seed": 1, "temperature": 0.8, "top_k": 9},
        {"seed": 3, "temperature": 0.7, "draft": "base", "draft_length": 2},
    ]
    options = [{"max_new_tokens": 24, **each} for each in options]

    async def together() -> list[list[str]]:
        calls = [pieces(decoder, p, **o) for p, o in zip(PROMPTS, options, strict=True)]
        return await asyncio.gather(*calls)

    streamed = asyncio.run(together())
    for prompt, own, got in zip(PROMPTS, options, streamed, strict=True):
        [expected] = decoder.generate(prompt, **own)
        assert "".join(got) == expected.text
    assert any(len(got) > 2 for got in streamed)  # in pieces

    async def lists() -> Any:
        return await decoder.agenerate(PROMPTS, temperature=1.0, seed=[1, 2, 3, 4])

    completions = asyncio.run(lists())  # another event loop, the same decoder
    expected = decoder.generate(PROMPTS, temperature=1.0, seed=[1, 2, 3, 4])
    assert [each.token_ids for each in completions] == [each.token_ids for each in expected]


def test_whoever_leaves_frees_the_row_and_nobody_else_notices(decoder) -> None:
    async def leave() -> str:
        stays = asyncio.create_task(pieces(decoder, PROMPTS[1], max_new_tokens=60, seed=1))
        goes = asyncio.create_task(pieces(decoder, PROMPTS[0], max_new_tokens=4000))
        breaks = decoder.astream(PROMPTS[2], max_new_tokens=4000)
        await anext(breaks)
        await until(lambda: service_of(decoder).running >= 2)
        goes.cancel()
        await breaks.aclose()
        with pytest.raises(asyncio.CancelledError):
            await goes
        text = "".join(await stays)
        await until(lambda: not service_of(decoder).busy)
        return text

    text = asyncio.run(leave())
    assert text == decoder.generate(PROMPTS[1], max_new_tokens=60, seed=1)[0].text
    assert service_of(decoder).running == service_of(decoder).waiting == 0
    # nothing goes on: the thread has ended with its last request
    for thread in threading.enumerate():
        if thread.name == "descant-steps":
            thread.join(20)
            assert not thread.is_alive()


def test_errors_come_to_the_one_who_asked(decoder) -> None:
    async def wrong(prompt: Any = PROMPTS[0], **arguments: Any) -> str:
        with pytest.raises(ValueError) as raised:
            await pieces(decoder, prompt, **arguments)
        return str(raised.value)

    async def all_of_them() -> None:
        assert "seed is" in await wrong(seed="x")
        assert "99999" in await wrong([99999])
        assert "2 rows" in await wrong(num_return_sequences=2)
        assert await pieces(decoder, PROMPTS[0], max_new_tokens=2)

    asyncio.run(all_of_them())


def test_a_service_of_many_formulas_is_driven_by_coroutines(zoo) -> None:
    named = {name: make_spec(name, zoo.path(name)) for name in ("base", "arm", "rm")}
    formulas = ["base + arm", "base | rerank(rm, k=4)", "base | best_of(rm, n=3)"]
    options = {"max_new_tokens": 12, "temperature": 1.0, "seed": 5}

    async def serve() -> list[Any]:
        async with AsyncService(Service(named, slots=4, max_model_len=128)) as service:
            served = [await service.call(service.service.decoder, each) for each in formulas]
            calls = [service.agenerate(each, PROMPTS[1], **options) for each in served]
            found = [done[0] for done in await asyncio.gather(*calls)]
            with pytest.raises(ArgumentError, match="ends in best_of"):
                await anext(service.astream(served[2], PROMPTS[1]))
            running = asyncio.create_task(service.agenerate(served[0], PROMPTS, max_new_tokens=99))
            await until(lambda: service.service.busy)
        with pytest.raises(StateError, match="closed"):
            await running
        with pytest.raises(StateError, match="closed"):
            await service.agenerate(served[0], PROMPTS[0])
        return found

    for formula, found in zip(formulas, asyncio.run(serve()), strict=True):
        alone = descant.compile(formula, {name: zoo.path(name) for name in named})
        assert found.token_ids == alone.generate(PROMPTS[1], **options)[0].token_ids
