"""Models that come and go while a decoder runs: nothing is read twice, and nothing is left."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
import torch
from steered import with_weights

import descant
from descant.errors import ArgumentError
from descant.models import make_spec
from descant.runtime import Service

PROMPT = [1, 17, 30, 9]


@pytest.fixture
def decoder(zoo) -> Any:
    models = {"base": {"path": zoo.path("base"), "dtype": "float32"}}
    return descant.compile("base", models)


def model_of(decoder: Any) -> Any:
    return decoder.session.bound.lanes[0].model


def greedy(model: Any, count: int = 8) -> list[int]:
    """By full recompute, without a cache."""
    ids = list(PROMPT)
    with torch.no_grad():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


def ids(decoder: Any, **options: Any) -> list[int]:
    return decoder.generate(PROMPT, max_new_tokens=8, eos_token_id=[], **options)[0].token_ids


def test_an_added_adapter_is_peft_s_over_the_weights_in_memory(zoo, decoder) -> None:
    before = ids(decoder)
    for name in ("lora4", "lora8"):
        decoder.add_model(name, zoo.adapter(name))
    adapted = decoder.compile("base[2*lora4 - lora8]")
    folders = {zoo.adapter(name)["adapter"]: w for name, w in (("lora4", 2.0), ("lora8", -1.0))}
    assert model_of(adapted) is model_of(decoder)
    assert ids(adapted) == greedy(with_weights(zoo.path("base"), folders))
    assert ids(decoder) == before  # and nothing is added to others' rows
    assert ids(decoder, draft="lora4") == before  # an added model may draft


def test_what_is_removed_is_forgotten(zoo, decoder) -> None:
    before, direction = ids(decoder), torch.randn(32, generator=torch.Generator().manual_seed(1))
    decoder.add_model("calm", {"vector": {1: 9 * direction}, "on": "base"})
    decoder.add_model("other", {"path": zoo.path("arm"), "dtype": "float32"})
    steered, mixed = decoder.compile("calm"), decoder.compile("base + other")
    first = ids(steered)
    assert first != before
    weights = weakref.ref(mixed.session.bound.lanes[1].model)
    with pytest.raises(ArgumentError, match="calm is in"):
        steered.remove_model("calm")
    decoder.remove_model("calm")
    decoder.remove_model("other")
    assert ids(steered) == first  # formulas that have it go on
    with pytest.raises(descant.FormulaError, match="calm"):
        decoder.compile("calm")
    decoder.add_model("calm", {"vector": {1: -9 * direction}, "on": "base"})
    again = decoder.compile("calm")
    fresh = descant.compile(
        "calm",
        {"base": {"path": zoo.path("base"), "dtype": "float32"},
         "calm": {"vector": {1: -9 * direction}, "on": "base"}},
    )  # fmt: skip
    assert ids(again) == ids(fresh) != first
    del mixed
    gc.collect()
    assert weights() is None


def test_coroutines_meet_added_models_too(zoo, decoder) -> None:
    async def streamed(**options: Any) -> list[Any]:
        text = [p async for p in decoder.astream("once upon", max_new_tokens=8, **options)]
        return "".join(text)

    expected = decoder.generate("once upon", max_new_tokens=8)[0].text
    assert asyncio.run(streamed()) == expected
    decoder.add_model("lora4", zoo.adapter("lora4"))
    assert asyncio.run(streamed(draft="lora4")) == expected
    decoder.remove_model("lora4")
    with pytest.raises(descant.FormulaError, match="lora4"):
        asyncio.run(streamed(draft="lora4"))


def test_wrong_models_are_refused_by_name(zoo, decoder) -> None:
    with pytest.raises(ArgumentError, match="a model base already"):
        decoder.add_model("base", zoo.path("arm"))
    with pytest.raises(ArgumentError, match="built-in"):
        decoder.add_model("step", zoo.path("arm"))
    with pytest.raises(descant.ModelError, match="is on nobody"):
        decoder.add_model("lora4", {**zoo.adapter("lora4"), "on": "nobody"})
    with pytest.raises(ArgumentError, match="no model arm"):
        decoder.remove_model("arm")
    decoder.add_model("lora4", zoo.adapter("lora4"))
    with pytest.raises(ArgumentError, match="base is in"):
        decoder.remove_model("base")


def test_a_running_service_takes_adapters_without_another_base(zoo) -> None:
    service = Service({"base": make_spec("base", zoo.path("base"))}, slots=4, max_model_len=64)
    base = service.decoder("base")
    [running] = service.submit(base, PROMPT, max_new_tokens=20)
    service.step()
    loaded = len(service.weights)
    service.add_model("lora4", zoo.adapter("lora4"))
    adapted = service.decoder("lora4")
    [other] = service.submit(adapted, PROMPT, max_new_tokens=8)
    ended = {}
    while service.busy:
        ended |= {id(a.request): a.tokens for a in service.step() if a.finish_reason}
    assert len(service.weights) == loaded
    alone = descant.compile(
        "lora4", {"base": zoo.path("base"), "lora4": zoo.adapter("lora4")}
    )  # fmt: skip
    assert ended[id(other)] == alone.generate(PROMPT, max_new_tokens=8)[0].token_ids
    assert ended[id(running)] == base.alone().generate(PROMPT, max_new_tokens=20)[0].token_ids
    with pytest.raises(ArgumentError, match="lora4 is in"):
        service.remove_model("lora4")
    service.forget(adapted)
    service.remove_model("lora4")
    assert not adapted.session.bound.lanes[0].adapters.nbytes
