"""A service: requests of many formulas in the same steps, each answered as if it were alone."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from checkpoints import LORA, MODELS

import descant
from descant import FormulaError, ModelError, TableModel
from descant.models import make_spec
from descant.runtime import Service
from descant.runtime.scores.noise import seed_key

FORMULAS = [
    "base + a*arm",
    "base + a*lora4 - 0.3*base@none",
    "base + a*lora8 | rerank(rm, k=4, w=1.5)",
    "where(entropy(base) > 4, base + a*arm, base) | repetition_penalty(1.2)",
    "(base | rerank(rm, k=3, norm=prefix)) + a*arm",
    "base | best_of(rm, n=3)",
    "base | best_of(rm, n=3, keep=0.5, every=2)",
    'base | particles(3*rm, n=3, until="e")',
    "base + a*lora4 | blockwise(arm, beams=2, samples=1, length=3)",
    "arm | reject(rm, target=0.5, entropy=3, longest=5, retries=3)",
    "base[a*lora4 + (1-a)*lora8] + 0.3*base@none",
    "base[2*lora4 - honest] + a*entropy(base)*arm | temperature(0.5 + 0.1*entropy(base))",
]
ENDS = list(range(0, 300, 13))


@pytest.fixture(scope="module")
def specs(zoo) -> dict[str, Any]:
    named = {name: zoo.path(name) for name in MODELS} | {name: zoo.adapter(name) for name in LORA}
    torch.manual_seed(3)
    named["honest"] = {"vector": {layer: 0.4 * torch.randn(32) for layer in (0, 1)}, "on": "base"}
    return {name: make_spec(name, said) for name, said in named.items()}


def served(specs, **settings: Any) -> Service:
    return Service(specs, **{"slots": 4, "max_model_len": 128, **settings})


def run(service: Service) -> list[Any]:
    """Every answer that ended."""
    ended = []
    while service.busy:
        assert service.running <= service.slots
        ended += [answer for answer in service.step() if answer.finish_reason]
    return ended


def asked(count: int, formulas: int) -> list[tuple[int, list[int], dict[str, Any]]]:
    """Requests: which formula, a prompt, and settings."""
    draw = random.Random(4)
    made = []
    for i in range(count):
        prompt = [draw.randrange(3, 300) for _ in range(draw.choice([1, 3, 8, 21, 50]))]
        settings = {
            "max_new_tokens": draw.randrange(1, 12), "temperature": draw.choice([0.7, 1.0]),
            "seed": i, "eos_token_id": ENDS, "params": {"a": draw.choice([0.0, 0.5, 1.5])},
        }  # fmt: skip
        made.append((draw.randrange(formulas), prompt, settings))
    return made


def offline(specs, formulas: list[str], requests: Any) -> list[list[int]]:
    alone = [descant.compile(text, specs, params={"a": 0.5}, device="cpu") for text in formulas]
    return [
        alone[which].generate(prompt, **settings)[0].token_ids
        for which, prompt, settings in requests
    ]


@pytest.mark.pages(ahead=1)
@pytest.mark.parametrize("ahead", [0, 1])
def test_every_answer_is_that_of_the_formula_alone(specs, ahead) -> None:
    requests = asked(60, len(FORMULAS))
    expected = offline(specs, FORMULAS, requests)
    service = served(specs)
    decoders = [service.decoder(text, {"a": 0.5}) for text in FORMULAS]
    for decoder in decoders:
        if not decoder.session.bound.plan.search:
            decoder.session.engine.ahead = ahead
    found: dict[int, list[int]] = {}
    numbers: dict[int, int] = {}
    draw, held, waiting = random.Random(1), [], list(enumerate(requests))
    while waiting or service.busy:
        for _ in range(draw.randrange(0, 4)):  # they come while others decode
            if waiting:
                number, (which, prompt, settings) = waiting.pop(0)
                [request] = service.submit(decoders[which], prompt, **settings)
                held.append(request)
                numbers[id(request)] = number
        for answer in service.step():
            if answer.finish_reason:
                found[numbers[id(answer.request)]] = answer.tokens
    assert [found[i] for i in range(len(requests))] == expected
    assert service.running == service.waiting == 0


def test_formulas_share_the_forwards_of_what_they_have_in_common(zoo, specs) -> None:
    """Three formulas over base and arm: one forward of each a step, as for one formula."""
    count: Counter[str] = Counter()
    service = served(specs, slots=6)
    formulas = ["base + arm", "base + 0.5*lora4", "base | top_k(5)"]
    decoders = [service.decoder(text) for text in formulas]
    models = dict(service._pool.weights.items())
    for model in models.values():
        name = model.config.name_or_path.rsplit("/", 1)[-1]
        model.register_forward_hook(lambda *_, name=name: count.update([name]))
    for decoder in decoders:
        for seed in range(2):
            service.submit(decoder, [5, 6, 7], max_new_tokens=20, seed=seed, eos_token_id=[])
    service.step()
    before = Counter(count)
    for _ in range(5):
        assert len(service.step()) == 6
    assert sorted((count - before).values()) == [5, 5]


def test_formulas_share_the_forwards_of_a_reward_model(specs) -> None:
    """Those that read it alike have their candidates scored in one forward, however many."""
    alike = [
        "base + arm | rerank(rm, k=4, w=1.5)",
        "base | rerank(rm, k=2)",
        "arm | rerank(rm, k=9)",
    ]
    apart = ["base | rerank(rm, k=3, keep=all)", "(base | rerank(rm, k=5, norm=prefix)) + 0.5*arm"]
    settings: dict[str, Any] = {"max_new_tokens": 9, "temperature": 1.0, "eos_token_id": []}
    prompts = [[5, 6, 7], [9, 8, 7, 6], [5], [4, 4], [11, 12, 13]]
    expected = [
        descant.compile(text, specs).generate(ids, seed=seed, **settings)[0].token_ids
        for seed, (text, ids) in enumerate(zip((*alike, *apart), prompts, strict=True))
    ]
    service, found, counts = served(specs, slots=5), {}, list[int]()
    decoders = [service.decoder(text) for text in (*alike, *apart)]
    [reward] = [model for model in service.weights.values() if model.config.num_labels == 1]
    reward.base_model.register_forward_hook(lambda *_: counts.append(1))
    for seed, (decoder, ids) in enumerate(zip(decoders, prompts, strict=True)):
        service.submit(decoder, ids, seed=seed, **settings)
        if seed == 2:
            service.step()
            counts.clear()
            assert len(service.step()) == 3 and len(counts) == 1
    while service.busy:
        counts.clear()
        ended = service.step()
        found |= {each.request.key: each.tokens for each in ended if each.finish_reason}
    assert [found[seed_key(seed)] for seed in range(5)] == expected
    for decoder in decoders:
        service.forget(decoder)


def test_who_comes_alone_gets_the_first_token_with_the_prompt(specs) -> None:
    """One forward reads a prompt and gives its first token; beside others, the step reads on."""
    settings = {"max_new_tokens": 6, "temperature": 1.0, "eos_token_id": []}
    prompts = [[5, 6, 7, 8], [9, 8, 7, 6], [9, 8, 7, 6]]
    formulas = ["base + arm", "base + 0.5*lora4", "base + arm"]
    expected = [
        descant.compile(text, specs).generate(ids, seed=seed, **settings)[0].token_ids
        for seed, (text, ids) in enumerate(zip(formulas, prompts, strict=True))
    ]
    service = served(specs)
    decoders = {text: service.decoder(text) for text in formulas}
    count: Counter[str] = Counter()
    for name, model in service._pool.weights.items():
        model.register_forward_hook(lambda *_, name=name: count.update([name]))
    found = {}
    for seed, (text, ids) in enumerate(zip(formulas, prompts, strict=True)):
        count.clear()
        service.submit(decoders[text], ids, seed=seed, **settings)
        service.step()
        assert set(count.values()) == {1}
    found |= {answer.request.key: answer.tokens for answer in run(service)}
    assert [found[seed_key(seed)] for seed in range(3)] == expected
    steps = [decoders[text].session.engine.step.forwards for text in formulas[:2]]
    assert steps == [[7, 7], [6]]  # the first of eight needed none


def test_rows_of_several_vocabularies_are_drawn_in_one_step() -> None:
    """Rows are drawn together by vocabulary, and each is given its own."""
    tables = {
        f"t{size}": TableModel(torch.randn(size, size, generator=torch.manual_seed(size)))
        for size in (7, 7 + 5)
    }
    formulas = ["t7", "t12", "2*t7", "t12 | top_k(3)"]
    settings = {"max_new_tokens": 9, "temperature": 0.8, "eos_token_id": []}
    specs = {name: make_spec(name, table) for name, table in tables.items()}
    expected = [
        descant.compile(text, specs).generate([3], seed=seed, **settings)[0].token_ids
        for seed, text in enumerate(formulas)
    ]
    service = served(specs)
    for seed, text in enumerate(formulas):
        service.submit(service.decoder(text), [3], seed=seed, **settings)
    found = {answer.request.key: answer.tokens for answer in run(service)}
    assert [found[seed_key(seed)] for seed in range(4)] == expected


@pytest.mark.pages
def test_who_cancels_is_gone_before_the_next_step(specs) -> None:
    service = served(specs, slots=2)
    plain, search = service.decoder("base + arm"), service.decoder("base | best_of(rm, n=2)")
    settings: dict[str, Any] = {"max_new_tokens": 30, "seed": 0, "eos_token_id": []}
    expected = plain.alone().generate([9, 8], **settings)[0].token_ids
    [going] = service.submit(plain, [9, 8], **settings)
    [leaving] = service.submit(plain, [4] * 60, **settings)
    [queued] = service.submit(search, [3, 3], **settings)
    assert {id(answer.request) for answer in service.step()} == {id(going), id(leaving)}
    service.cancel(leaving)
    service.cancel(queued)
    assert (service.running, service.waiting) == (1, 0)
    assert [answer.request for answer in service.step()] == [going]
    [answer] = run(service)
    assert answer.tokens == expected and answer.request is going
    [searching] = service.submit(search, [3, 3], **settings)
    service.step()
    assert service.running == 2
    service.cancel(searching)
    assert service.running == 0 and not service.busy
    service.cancel(searching)  # twice is once


def test_who_cancels_while_its_prompt_is_read_takes_no_slot(specs, monkeypatch) -> None:
    import descant.models.lanes.prefill as lane_module
    import descant.runtime.shared_slots as slots_module

    for module in (lane_module, slots_module):
        monkeypatch.setattr(module, "CHUNK", 8)
    service = served(specs)
    decoder = service.decoder("base + arm")
    settings: dict[str, Any] = {"max_new_tokens": 12, "seed": 0, "eos_token_id": []}
    [first] = service.submit(decoder, [9, 8], **settings)
    service.step()
    [late] = service.submit(decoder, [4] * 60, **settings)
    service.step()
    assert service.running == 2 and decoder.scheduler.batch.arriving
    service.cancel(late)
    ended = run(service)
    assert [answer.request for answer in ended] == [first]
    assert not service.busy and service.running == 0


def test_what_goes_wrong_in_one_row_ends_that_row_alone() -> None:
    table = torch.zeros(6, 6)
    table[0, 1], table[1, 2], table[2] = 9, 9, torch.nan
    table[3, 4], table[4, 5], table[5, 3] = 9, 9, 9
    service = Service({"base": make_spec("base", TableModel(table))}, slots=3, max_model_len=64)
    decoder = service.decoder("base")
    [bad] = service.submit(decoder, [0], max_new_tokens=8)
    [good] = service.submit(decoder, [3], max_new_tokens=8)
    ended = {id(answer.request): answer for answer in run(service)}
    assert ended[id(good)].tokens == [4, 5, 3, 4, 5, 3, 4, 5]
    wrong = ended[id(bad)]
    assert wrong.finish_reason == "error" and isinstance(wrong.error, FormulaError)
    assert "base gave NaN for row 0, token 2" in str(wrong.error)


@pytest.mark.pages
def test_a_row_after_one_that_went_wrong_reads_nothing_of_it(zoo, specs) -> None:
    """Keys and values that are not finite are gone before the row is used again."""
    service = served(specs, slots=1)
    decoder = service.decoder("base + arm")
    settings: dict[str, Any] = {"max_new_tokens": 9, "seed": 3, "eos_token_id": []}
    expected = decoder.alone().generate([7, 7, 7], **settings)[0].token_ids
    service.submit(decoder, [5] * 70, max_new_tokens=2, eos_token_id=[])
    service.step()
    lane = decoder.session.bound.lanes[0].lane
    for layer in lane.blocks.cache.layers:
        layer.keys[:], layer.values[:] = torch.nan, torch.nan
    assert run(service)[0].finish_reason == "error"
    service.submit(decoder, [7, 7, 7], **settings)
    assert run(service)[0].tokens == expected


def test_formulas_come_while_others_decode_and_are_forgotten(specs) -> None:
    service = served(specs, slots=3)
    first = service.decoder("base + arm")
    settings: dict[str, Any] = {"max_new_tokens": 25, "seed": 0, "eos_token_id": []}
    expected = first.alone().generate([9, 8], **settings)[0].token_ids
    [request] = service.submit(first, [9, 8], **settings)
    for _ in range(5):
        service.step()
    with pytest.raises(ValueError, match="have not ended"):
        service.forget(first)
    wide = service.decoder("base + 0.2*base@none - 0.1*lora8 + 0.3*lora4")  # more rows each
    text = {"max_new_tokens": 9, "seed": 2, "eos_token_id": []}
    hoped = wide.alone().generate([3, 4, 5], **text)[0].token_ids
    [other] = service.submit(wide, [3, 4, 5], **text)
    held = first.session.bound.lanes[0].footprint().cache_bytes
    answers = {id(answer.request): answer.tokens for answer in run(service)}
    assert answers == {id(request): expected, id(other): hoped}
    assert 0 == first.session.bound.lanes[0].footprint().cache_bytes < held
    service.forget(wide)
    service.forget(first)
    assert not service._decoders


def test_what_does_not_fit_is_refused_before_it_is_queued(specs) -> None:
    service = served(specs, max_model_len=100)
    decoder, search = service.decoder("base"), service.decoder("base | best_of(rm, n=5)")
    ranked = service.decoder("base | rerank(rm, k=n)", {"n": 3})
    with pytest.raises(ModelError, match="90 tokens, and 11 more are asked for"):
        service.submit(decoder, [3] * 90, max_new_tokens=11)
    with pytest.raises(ValueError, match="takes 5 slots, and there are 4"):
        service.submit(search, [3], max_new_tokens=2)
    with pytest.raises(ValueError, match="65 candidates are asked for; here it is 64"):
        service.submit(ranked, [3], max_new_tokens=2, params={"n": 65})
    with pytest.raises(RuntimeError, match="submit to it"):
        decoder.generate([3])
    with pytest.raises(FormulaError, match="nobody"):
        service.decoder("base + nobody")
    with pytest.raises(ValueError, match="slots is 0"):
        served(specs, slots=0)
    assert not service.busy
