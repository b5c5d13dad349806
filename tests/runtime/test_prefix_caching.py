"""What was read before is not read again, and no token depends on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import LORA, MODELS, llama, tokenizer

from descant.models import make_spec
from descant.models.cache.blocks import store
from descant.models.cache_config import CacheConfig
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime import Service
from descant.runtime.engine import engine as engines

pytestmark = pytest.mark.pages

FORMULAS = [
    "base + a*arm",
    "base + a*lora4 - 0.25*lora8",
    "base - a*mistral",
    "where(entropy(base) > 4, base + a*arm, base) | repetition_penalty(1.2)",
    "base | rerank(rm, k=4, w=1.5)",
    "(base | rerank(rm, k=3, norm=prefix)) + a*arm",
    "base + a*qwen2 | best_of(rm, n=3)",
    "base + a*lora4 | blockwise(arm, beams=2, samples=2, length=3)",
    "arm | reject(rm, target=0.5, entropy=3, longest=5, retries=3)",
]
SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": list(range(0, 300, 31))}


@pytest.fixture
def forwards(monkeypatch) -> list[int]:
    """The tokens of every forward of a lane."""
    read: list[int] = []
    forward = TransformersLane._forward

    def noted(self: Any, tokens: Any, *more: Any, **options: Any) -> Any:
        read.append(tokens.numel())
        return forward(self, tokens, *more, **options)

    monkeypatch.setattr(TransformersLane, "_forward", noted)
    return read


def ids(*lengths: int, seed: int = 5) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]


def tokens_of(completions: list[Any]) -> list[list[int]]:
    return [completion.token_ids for completion in completions]


def alike() -> list[list[int]]:
    """Equal prompts, beginnings of one another, and those that part within a page or at its end."""
    common, other, *tails = ids(80, 40, 7, 20, 1, 16)
    return [
        common, common, common[:79], common[:64], common[:48], common[:33], common[:17],
        common[:15], common[:3], [*common[:40], *tails[0]], [*common[:64], *tails[1]],
        [*common[:32], *tails[2]], [*common, *tails[3]], other, [*other[:16], *tails[3]], other[:9],
    ]  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
def test_the_tokens_are_the_same(compiled, formula) -> None:
    """Of one call and of the next, greedy and by noise, few and many rows at once."""
    prompts = alike()
    params = {"a": 0.5} if "a*" in formula else None
    with_cache = compiled(formula, params=params)
    without = compiled(formula, params=params, enable_prefix_caching=False)
    more = {**SETTINGS, "seed": [*range(16)], "temperature": [0.0, 0.9] * 8}
    expected = tokens_of(without.generate(prompts, batch_size=24, **more))
    assert without.session.engine.stats.cached_tokens == 0
    for batch_size in (24, 6):
        found = with_cache.generate(prompts, batch_size=batch_size, **more)
        assert tokens_of(found) == expected
        stats = with_cache.session.engine.stats
        assert 0 < stats.cached_tokens < stats.prompt_tokens
    assert stats.prompt_tokens == without.session.engine.stats.prompt_tokens
    longest = max(found, key=lambda one: len(one.prompt))
    assert 80 <= longest.cached_tokens < 96 and longest.cached_tokens % 16 == 0
    for one in found:
        assert 0 <= one.cached_tokens <= len(one.prompt) and one.prompt in prompts


def test_what_is_read(compiled, forwards) -> None:
    """By count: each token of a shared beginning once, or all of them where caching is off."""
    prompts = [[*ids(64)[0], *tail] for tail in ids(5, 5, 5, seed=9)]
    read = {}
    for on in (True, False):
        decoder = compiled("base", enable_prefix_caching=on)
        for call in range(2):
            forwards.clear()
            decoder.generate(prompts, max_new_tokens=1, eos_token_id=[])
            read[on, call] = sum(forwards)
        stats = decoder.session.engine.stats
        assert (stats.prompt_tokens, stats.cached_tokens) == (207, 192 * on)
    assert read[False, 0] == read[False, 1] == 207
    assert read[True, 0] == 64 + 15 + (64 + 5 - 69) and read[True, 1] == 15


def test_adapters_never_mix(specs, compiled) -> None:
    """One prompt under bare weights and two adapters, whoever was there before."""
    [prompt] = ids(70)
    formulas = ["base", "lora4", "lora8"]
    alone = [compiled(text, enable_prefix_caching=False) for text in formulas]
    expected = [each.generate(prompt, **SETTINGS)[0].token_ids for each in alone]
    assert len(set(map(tuple, expected))) == 3
    service = Service(specs, slots=4, max_model_len=128)
    decoders = [service.decoder(text) for text in formulas]
    for which in (0, 1, 2, 2, 0, 1):
        [request] = service.submit(decoders[which], prompt, **SETTINGS)
        [answer] = ended(service)
        assert answer.request is request and answer.tokens == expected[which]
    stats = [decoder.session.engine.stats for decoder in decoders]
    assert [each.cached_tokens for each in stats] == [64] * 3  # the second time, each its own
    assert service.prefix_cache_counts() == (6 * 70, 3 * 64)


@pytest.fixture(scope="module")
def specs(zoo) -> dict[str, Any]:
    named = {name: zoo.path(name) for name in MODELS} | {name: zoo.adapter(name) for name in LORA}
    return {name: make_spec(name, said) for name, said in named.items()}


def ended(service: Service) -> list[Any]:
    found = []
    while service.busy:
        found += [answer for answer in service.step() if answer.finish_reason]
        assert not service.failures
    return found


def test_prompt_variants_and_chats(compiled) -> None:
    """What each variant reads is its own; a conversation is found again where it goes on."""
    prompts = {"child": "the lazy dog says: "}
    formula = "base@child + 0.5*base@none - 0.25*base"
    with_cache = compiled(formula, prompts=prompts)
    without = compiled(formula, prompts=prompts, enable_prefix_caching=False)
    chat = [{"role": "user", "content": "the quick brown fox jumps"}]
    cached = []
    for question in ("and the dog?", "why?", ""):
        for prompt in (chat, chat[-1]["content"], [*chat[:-1], {"role": "user", "content": "no"}]):
            found = with_cache.generate([prompt], seed=1, temperature=1.0, max_new_tokens=4)
            expected = without.generate([prompt], seed=1, temperature=1.0, max_new_tokens=4)
            assert tokens_of(found) == tokens_of(expected)
            cached.append(found[0].cached_tokens)
        chat = [*chat, {"role": "assistant", "content": found[0].text or "so"},
                {"role": "user", "content": question}]  # fmt: skip
    turns = cached[::3]
    assert turns == sorted(turns) and turns[0] == 0 < turns[1] < turns[-1]


def test_an_answer_is_part_of_the_next_prompt(compiled, forwards) -> None:
    """Eight turns: what was said is read once, the answers too."""
    with_cache = compiled("base + 0.5*arm")
    without = compiled("base + 0.5*arm", enable_prefix_caching=False)
    talks: list[list[int]] = []
    read, cached = {}, []
    for number, decoder in enumerate((with_cache, without)):
        text = list[int]()
        forwards.clear()
        for turn in ids(*[6] * 8):
            text = [*text, *turn]
            [one] = decoder.generate(text, max_new_tokens=9, seed=2, temperature=0.7,
                                     eos_token_id=[])  # fmt: skip
            text = [*text, *one.token_ids]
            cached += [one.cached_tokens] * (not number)
            assert one.cached_tokens <= len(one.prompt)
        talks.append(text)
        read[number] = sum(forwards)
    assert talks[0] == talks[1] and len(talks[0]) == 120
    # All but the last token was read, in whole units of 16.
    assert cached == [max(0, (15 * turn - 1) // 16 * 16) for turn in range(8)]
    assert read[0] < 0.5 * read[1]


def test_points_of_a_sweep_and_samples_read_a_prompt_once(compiled, forwards) -> None:
    [prompt] = ids(75)
    decoder = compiled("base + a*arm", params={"a": 0.5})
    found = decoder.generate(prompt, params={"a": [0.25, 0.5, 0.75, 1.0]}, max_new_tokens=1,
                             eos_token_id=[])  # fmt: skip
    assert sum(forwards) == 2 * 75  # base and arm
    assert sorted(one.cached_tokens for one in found) == [0, 75, 75, 75]
    alone = decoder.generate(prompt, params={"a": [0.0, 0.0]}, max_new_tokens=1, eos_token_id=[])
    assert [one.cached_tokens for one in alone] == [64, 75]  # of base, for nobody reads arm
    forwards.clear()
    samples = decoder.generate(prompt, params={"a": 0.5}, num_return_sequences=5, max_new_tokens=1,
                               temperature=1.0, seed=3, eos_token_id=[])  # fmt: skip
    assert sum(forwards) == 2 * (75 - 64)
    without = compiled("base + a*arm", params={"a": 0.5}, enable_prefix_caching=False)
    same = without.generate(prompt, params={"a": 0.5}, num_return_sequences=5, max_new_tokens=1,
                            temperature=1.0, seed=3, eos_token_id=[])  # fmt: skip
    assert tokens_of(samples) == tokens_of(same) and len(set(map(tuple, tokens_of(same)))) > 1


def test_what_is_forgotten_is_read_again(compiled, monkeypatch, page_size) -> None:
    """With room for few beginnings, and more of them than fit."""
    token_bytes = 2 * 2 * 2 * 8 * 4  # of base: keys and values, layers, groups, size, float32
    monkeypatch.setattr(store, "BYTES", 3 * store.PAGE * token_bytes)
    monkeypatch.setattr(engines, "room", lambda *_: 16 * 16)
    beginnings = ids(50, 64, 70, 33, 80, seed=1)
    with_cache, without = compiled("base"), compiled("base", enable_prefix_caching=False)
    hits = []
    for turn in range(12):
        prompts = [[*beginnings[(turn * k) % 5], *tail] for k, tail in enumerate(ids(9, 20), 1)]
        more = {**SETTINGS, "seed": turn, "temperature": 0.8}
        found = with_cache.generate(prompts, **more)
        assert tokens_of(found) == tokens_of(without.generate(prompts, **more))
        hits += [one.cached_tokens for one in found]
    assert 0 < sum(map(bool, hits)) < len(hits)
    lane = with_cache.session.bound.lanes[0]
    if page_size:
        assert lane.free_pages == lane.all_pages == 16
    else:
        assert 0 < lane._store.nbytes <= store.BYTES


def test_weights_that_change_are_read_with_again(zoo, compiled) -> None:
    """A model in memory belongs to somebody who trains it: nothing is found in a later call."""
    model = llama()
    prompts = [ids(60)[0]] * 2
    decoder = compiled("m", models={"m": {"model": model, "tokenizer": tokenizer()}})
    service = Service({"m": make_spec("m", {"model": model})}, slots=2, max_model_len=128)
    served = service.decoder("m")

    def both() -> tuple[list[int], list[int]]:
        completions = decoder.generate(prompts, **SETTINGS)
        assert sorted(one.cached_tokens for one in completions) == [0, 60]
        [request] = service.submit(served, prompts[0], **SETTINGS)
        [answer] = ended(service)
        assert answer.request is request and answer.cached_tokens == 0
        return completions[0].token_ids, answer.tokens

    before = both()
    assert before[0] == before[1]
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(torch.linspace(0.5, 1.5, weight.shape[-1]))
    fresh = compiled("m", models={"m": {"model": model, "tokenizer": tokenizer()}})
    expected = fresh.generate(prompts[0], **SETTINGS)[0].token_ids
    assert both() == (expected, expected) != before


def test_keys_that_depend_on_the_length_are_not_shared(compiled, forwards) -> None:
    rope = {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 40,
            "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 1e4}  # fmt: skip
    model = llama(rope_parameters=rope, max_position_embeddings=160)
    spec = {"model": model, "tokenizer": tokenizer()}
    decoder = compiled("m", models={"m": spec})
    [text] = ids(60)
    prompts = [text[:30], text, text[:38], text]
    more = {"max_new_tokens": 9, "eos_token_id": [], "temperature": 0.7, "seed": 3}
    found = decoder.generate(prompts[:3], **more)
    for prompt, one in zip(prompts, found, strict=False):
        fresh = compiled("m", models={"m": spec}, enable_prefix_caching=False)
        assert fresh.generate(prompt, **more)[0].token_ids == one.token_ids
        assert one.cached_tokens == 0
    forwards.clear()
    [again] = decoder.generate(text, **more)
    assert again.cached_tokens == 0 and sum(forwards) >= 60


def test_formulas_of_a_service_find_what_others_have_read(specs, compiled) -> None:
    """They share lanes; who comes, goes and shares changes nobody's tokens."""
    texts = ["base + 0.5*arm", "base - 0.25*lora4", "base | best_of(rm, n=2)", "arm | top_k(9)"]
    prompts = alike()
    alone = [compiled(text, enable_prefix_caching=False) for text in texts]
    asked = [(number % 4, prompt, {**SETTINGS, "seed": number, "temperature": 0.8})
             for number, prompt in enumerate(prompts)]  # fmt: skip
    expected = [alone[which].generate(p, **more)[0].token_ids for which, p, more in asked]
    for cache in (CacheConfig(), CacheConfig(enable_prefix_caching=False)):
        service = Service(specs, slots=5, max_model_len=128, cache=cache)
        decoders = [service.decoder(text) for text in texts]
        held, found = [], dict[int, Any]()
        for which, prompt, more in asked:
            held += service.submit(decoders[which], prompt, **more)
            found |= {id(each.request): each for each in service.step() if each.finish_reason}
        found |= {id(each.request): each for each in ended(service)}
        assert [found[id(request)].tokens for request in held] == expected
        queries, hits = service.prefix_cache_counts()
        assert (queries > hits > 200) if cache.enable_prefix_caching else (queries == hits == 0)
        assert any(each.cached_tokens for each in found.values()) == cache.enable_prefix_caching


def test_given_texts_and_scores_are_the_same(compiled) -> None:
    with_cache = compiled("base + 0.5*lora4 | rerank(rm, k=4, w=1.5)")
    without = compiled("base + 0.5*lora4 | rerank(rm, k=4, w=1.5)", enable_prefix_caching=False)
    prompts, [completion] = alike()[:8], ids(7)
    for _ in range(2):
        torch.testing.assert_close(
            with_cache.scores(prompts[0], completion), without.scores(prompts[0], completion),
            atol=1e-4, rtol=1e-4,
        )  # fmt: skip
        found = with_cache.loglikelihood(prompts, [completion] * 8)
        expected = without.loglikelihood(prompts, [completion] * 8)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-4, rtol=1e-4)


def test_it_is_said_in_the_plan(compiled) -> None:
    [prompt] = ids(40)
    for on in (True, False):
        decoder = compiled("base", enable_prefix_caching=on)
        for _ in range(2):
            decoder.generate(prompt, **SETTINGS)
        report = str(decoder.plan)
        said = "40 tokens, 32 of them (80%) from the prefix cache"
        assert (f"prompts     {said if on else '40 tokens; prefix caching is off'}\n") in report
