"""Formulas over models whose layers keep states: tokens of generate, and of plain rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import peft
import pytest
import tiny_architectures as families
import torch
from cached_decoding import generated
from reference_rules import plain
from reference_rules.particles import particles
from reference_rules.search import blockwise
from tiny_architectures import STATES, V
from transformers import CONFIG_MAPPING

import descant
from descant.models import make_spec
from descant.runtime import Service
from descant.runtime.scores.noise import coin, gumbel, seed_key

here = [family for family in STATES if family in CONFIG_MAPPING]
THREE = ["qwen3_next", "falcon_h1", "mamba2"]  # by turns, both in a layer, states alone
PROMPTS = [
    torch.randint(3, V, (length,), generator=torch.manual_seed(length)).tolist()
    for length in (21, 5, 1, 13, 5)
]
MOST, SEED = 10, 11
GREEDY: dict[str, Any] = {"max_new_tokens": MOST, "eos_token_id": []}
DRAWN: dict[str, Any] = {**GREEDY, "temperature": 1.0, "seed": SEED}
model = cache(families.model)


def tokens(completions: Any) -> list[list[int]]:
    return [completion.token_ids for completion in completions]


@pytest.mark.parametrize("family", here)
def test_tokens_are_those_of_generate(family) -> None:
    decoder = descant.compile("base", models={"base": model(family)})
    expected = [generated(model(family), prompt, MOST) for prompt in PROMPTS]
    assert tokens(decoder.generate(PROMPTS, **GREEDY, batch_size=3)) == expected


def drawn_plainly(scores: Callable[[list[int], list[int]], torch.Tensor], prompt: list[int]) -> Any:
    """The tokens that a request with this seed draws, each text read whole for each of them."""
    made: list[int] = []
    for _ in range(MOST):
        key = torch.tensor([seed_key(SEED)], dtype=torch.int32)
        noise = gumbel(key, torch.tensor([len(made)]), V)[0]
        made.append(int((scores(prompt, made) + noise).argmax()))
    return made


def left_out(family: str) -> Callable[[list[int], list[int]], torch.Tensor]:
    """Scores of the formula below, by transformers' own forwards."""
    base, arm = model(family), model(family, 1)

    def scores(prompt: list[int], made: list[int]) -> torch.Tensor:
        said = plain.logprobs(base, [*prompt, *made])
        if -(said.exp() * said).sum() > 3.0:
            return said + 0.5 * plain.logprobs(arm, [*prompt, *made])
        return said

    return scores


@pytest.mark.parametrize("family", THREE)
def test_a_lane_that_some_rows_leave_out_for_some_steps(family) -> None:
    models = {"base": model(family), "arm": model(family, 1)}
    decoder = descant.compile("where(entropy(base) > 3, base + 0.5*arm, base)", models=models)
    expected = [drawn_plainly(left_out(family), prompt) for prompt in PROMPTS]
    assert tokens(decoder.generate(PROMPTS, **DRAWN)) == expected
    for draft in ("base", "prompt"):
        assert tokens(decoder.generate(PROMPTS, draft=draft, **DRAWN)) == expected


@pytest.mark.parametrize("draft", ["base", "prompt", "arm"])
@pytest.mark.parametrize("family", [*THREE, "jamba"])
def test_drafts_change_nothing(family, draft) -> None:
    models = {"base": model(family), "arm": model(family, 1)}
    decoder = descant.compile("base + 0.5*arm", models=models)
    prompts = [*PROMPTS, [5, 6, 7] * 5]
    for settings in (GREEDY, DRAWN):
        expected = tokens(decoder.generate(prompts, **settings))
        drafted = decoder.generate(prompts, draft=draft, draft_length=3, **settings)
        assert tokens(drafted) == expected


TARGETS = {
    "qwen3_next": ["q_proj", "v_proj", "in_proj_qkvz", "in_proj_ba"],
    "falcon_h1": ["k_proj", "in_proj", "down_proj"],
    "mamba2": ["in_proj"],
}


@pytest.mark.parametrize("family", THREE)
def test_rows_with_adapters(family, tmp_path) -> None:
    """Against peft's own forwards of each text alone."""
    base = families.model(family)
    torch.manual_seed(3)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS[family])
    adapted = peft.get_peft_model(base, config)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data = 0.2 * torch.randn_like(weight)
    adapted.save_pretrained(tmp_path)
    models = {"base": families.model(family), "lora": {"adapter": str(tmp_path), "on": "base"}}
    decoder = descant.compile("base + 0.5*lora", models=models)
    merged = adapted.merge_and_unload().eval()

    def scores(prompt: list[int], made: list[int]) -> torch.Tensor:
        ids = [*prompt, *made]
        return plain.logprobs(model(family), ids) + 0.5 * plain.logprobs(merged, ids)

    expected = [drawn_plainly(scores, prompt) for prompt in PROMPTS]
    assert tokens(decoder.generate(PROMPTS, **DRAWN)) == expected


JUDGES = ["qwen3_next", "zamba", "jamba"]


@pytest.mark.parametrize("norm", ["none", "prefix"])
@pytest.mark.parametrize("family", JUDGES)
def test_rerank_by_a_reward(family, norm) -> None:
    base, rm = model("falcon_h1"), model(family, 0, True)
    decoder = descant.compile(
        f"base | rerank(rm, k=3, w=1.5, norm={norm})", models={"base": base, "rm": rm}
    )

    def scores(prompt: list[int], made: list[int]) -> torch.Tensor:
        said = plain.logprobs(base, [*prompt, *made])
        out = torch.full_like(said, -math.inf)
        before = plain.reward(rm, [*prompt, *made]) if norm == "prefix" else 0.0
        for token in said.topk(3).indices.tolist():
            out[token] = said[token] + 1.5 * (plain.reward(rm, [*prompt, *made, token]) - before)
        return out

    expected = [drawn_plainly(scores, prompt) for prompt in PROMPTS]
    assert tokens(decoder.generate(PROMPTS, **DRAWN)) == expected
    assert tokens(decoder.generate(PROMPTS, draft="prompt", **DRAWN)) == expected


SEARCHES = [
    ("base | best_of(rm, n=4)", 1, 4, MOST),
    ("base | blockwise(rm, beams=2, samples=2, length=3)", 2, 2, 3),
]


@pytest.mark.parametrize("family", THREE)
@pytest.mark.parametrize(("formula", "beams", "samples", "length"), SEARCHES)
def test_searches(family, formula, beams, samples, length) -> None:
    base, rm = model(family), model("qwen3_next", 0, True)
    decoder = descant.compile(formula, models={"base": base, "rm": rm})
    found = tokens(decoder.generate(PROMPTS, **GREEDY, seed=SEED))
    high, low = seed_key(SEED)
    for prompt, made in zip(PROMPTS, found, strict=True):

        def draw(sample: int, answer: list[int], prompt: list[int] = prompt) -> int:
            scores = plain.logprobs(base, [*prompt, *answer])
            key = torch.tensor([seed_key((high << 32) ^ low, sample)], dtype=torch.int32)
            return int((scores + gumbel(key, torch.tensor([len(answer)]), V)[0]).argmax())

        def judge(answer: list[int], prompt: list[int] = prompt) -> float:
            return plain.reward(rm, [*prompt, *answer])

        assert made == blockwise(draw, judge, beams, samples, length, MOST, -1)


@pytest.mark.parametrize("family", THREE)
def test_particles(family) -> None:
    base, rm = model(family), model("qwen3_next", 0, True)
    decoder = descant.compile(
        "base | particles(rm, n=4, length=3)", models={"base": base, "rm": rm}
    )
    found = tokens(decoder.generate(PROMPTS, **GREEDY, seed=SEED))
    high, low = seed_key(SEED)
    own = (high << 32) ^ low
    for prompt, made in zip(PROMPTS, found, strict=True):

        def draw(number: int, row: int, answer: list[int], prompt: list[int] = prompt) -> int:
            key = torch.tensor([seed_key(own, number * 65536 + row)], dtype=torch.int32)
            noise = gumbel(key, torch.tensor([len(answer)]), V)[0]
            return int((plain.logprobs(base, [*prompt, *answer]) + noise).argmax())

        answer, *_ = particles(
            draw, lambda answer, prompt=prompt: plain.reward(rm, [*prompt, *answer]),
            lambda number: coin(own, number), 4, lambda start, now: len(now) - len(start) >= 3,
            0.5, lambda answer: len(answer) == MOST,
        )  # fmt: skip
        assert made == answer


FORMULAS = ["base + 0.5*arm", "base | best_of(rm, n=2)", "arm | rerank(rm, k=3, w=1.5)"]


@pytest.mark.parametrize("family", THREE)
def test_formulas_that_share_a_lane(family) -> None:
    """Requests come and go, one is cancelled, and a forward raises half-way: the others draw on."""
    models = {"base": model(family), "arm": model(family, 1), "rm": model("qwen3_next", 0, True)}
    settings = [{**DRAWN, "seed": number, "max_new_tokens": 8 + number} for number in range(6)]
    alone = [descant.compile(formula, models=models) for formula in FORMULAS]
    expected = [
        alone[number % 3].generate(PROMPTS[number % 5], **settings[number])[0].token_ids
        for number in range(6)
    ]
    specs = {name: make_spec(name, one) for name, one in models.items()}
    service = Service(specs, slots=6, max_model_len=64)
    decoders = [service.decoder(formula) for formula in FORMULAS]
    asked, ended = {}, {}

    def step() -> None:
        ended.update({id(a.request): a for a in service.step() if a.finish_reason})

    for number in range(6):
        [request] = service.submit(decoders[number % 3], PROMPTS[number % 5], **settings[number])
        asked[id(request)] = number, request
        step()
        if number == 2:
            [cancelled] = service.submit(decoders[0], PROMPTS[3], **DRAWN)
        if number == 4:
            service.cancel([cancelled])
    last = [*models["base"].modules()][-1]
    raised: list[int] = []

    def hook(*_: Any) -> None:
        if not raised:
            raised.append(1)
            raise RuntimeError("half-way")

    handle = last.register_forward_pre_hook(hook)
    while service.busy:
        step()
    handle.remove()
    assert raised
    found = {number: ended[key] for key, (number, _) in asked.items()}
    assert sum(answer.error is not None for answer in found.values()) <= 1
    for number, answer in found.items():
        assert answer.error is not None or answer.tokens == expected[number]
