"""Echoed prompts and ``prompt_logprobs``: what a plain forward says, whoever else is decoded."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import pytest
import torch
from peft import PeftModel
from test_decode_loop import Decoding
from transformers import AutoModelForCausalLM, AutoTokenizer

from descant.demo import PROMPTS
from descant.serve.protocol.messages import Cancel, Compile, Failed, ReadPrompts
from descant.serve.worker.prompts import PIECE, TOGETHER

EGGS = "How do I boil eggs?"
TEXTS = [*PROMPTS[:6], EGGS]
BY_MODELS = {
    "base": {"base": 1.0},
    "arms": {"base": 1.0, "arm_help": 0.5, "arm_harm": 0.5},
    "base + 2*arm_help - 0.5*arm_harm": {"base": 1.0, "arm_help": 2.0, "arm_harm": -0.5},
}


@pytest.fixture(scope="module")
def plain(run_file) -> Any:
    """``plain(formula, ids)``: ``(len(ids) - 1, V)`` log-probabilities, by other libraries."""

    @cache
    def model(name: str) -> Any:
        base = AutoModelForCausalLM.from_pretrained(run_file.models["base"].path, dtype="float32")
        if name == "base":
            return base.eval()
        return PeftModel.from_pretrained(base, run_file.models[name].adapter).eval()

    @torch.no_grad()
    def logprobs(formula: str, ids: list[int]) -> torch.Tensor:
        read = torch.tensor([ids[:-1]])
        parts = BY_MODELS[formula].items()
        scores = sum(w * model(name)(read).logits[0].log_softmax(-1) for name, w in parts)
        return scores.log_softmax(-1)

    return logprobs


@pytest.fixture(scope="module")
def tokenizer(run_file) -> Any:
    return AutoTokenizer.from_pretrained(run_file.models["base"].path)


def is_plain(expected: torch.Tensor, ids: list[int], found: list[float], best: list[Any]) -> None:
    """Log-probabilities of ids but the first, and the best two at each, are the plain ones."""
    assert found[0] is None and best[0] is None
    own = expected[range(len(ids) - 1), ids[1:]].tolist()
    assert found[1:] == pytest.approx(own, abs=2e-4)
    for row, values in zip(expected, best[1:], strict=True):
        assert values[:2] == pytest.approx(row.topk(2).values.tolist(), abs=2e-4)


@pytest.mark.parametrize("formula", BY_MODELS)
@pytest.mark.parametrize("tokens", [0, 1])
def test_an_echo_is_what_lm_eval_reads(served, offline, plain, tokenizer, formula, tokens) -> None:
    """``echo=True, max_tokens=0 | 1, logprobs=2`` with token ids: a likelihood, and the best."""
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    found = served.client().completions.create(
        model=formula, prompt=prompts, max_tokens=tokens, logprobs=2, echo=True, temperature=0
    )
    assert found.usage.completion_tokens == tokens * len(prompts)
    assert found.usage.prompt_tokens == sum(map(len, prompts))
    decoder = offline.decoder(formula)
    likely = decoder.loglikelihood([ids[:1] for ids in prompts], [ids[1:] for ids in prompts])
    for ids, choice, own in zip(prompts, found.choices, likely, strict=True):
        said = choice.logprobs
        assert len(said.tokens) == len(said.text_offset) == len(ids) + tokens
        assert choice.finish_reason == "length"
        assert choice.text.startswith(tokenizer.decode(ids, skip_special_tokens=True))
        count = len(ids)
        assert said.token_logprobs[1:count] == pytest.approx(own.logprobs, abs=1e-5)
        best = [at and sorted(at.values(), reverse=True) for at in said.top_logprobs[:count]]
        is_plain(plain(formula, ids), ids, said.token_logprobs[:count], best)
        # As lm-eval decides whether a continuation is greedy.
        drawn = zip(said.token_logprobs[1:count], said.top_logprobs[1:count], strict=True)
        assert [logprob == max(at.values()) for logprob, at in drawn] == own.greedy


def test_prompt_logprobs_are_those_of_vllm(served, plain) -> None:
    body = {"prompt_logprobs": 2, "return_token_ids": True}
    client = served.client()
    text = client.completions.create(model="arms", prompt=EGGS, max_tokens=2, extra_body=body)
    messages: Any = [{"role": "user", "content": EGGS}]
    chat = client.chat.completions.create(
        model="arms", messages=messages, max_tokens=2, extra_body=body
    )
    for said in (text.choices[0], chat):
        ids, ranked = said.prompt_token_ids, said.prompt_logprobs
        expected = plain("arms", ids)
        assert ranked[0] is None and len(ranked) == len(ids)
        for row, id, at in zip(expected, ids[1:], ranked[1:], strict=True):
            values = {int(token): one for token, one in at.items()}
            assert set(values) == {id, *row.topk(2).indices.tolist()}
            for token, one in values.items():
                assert one["logprob"] == pytest.approx(float(row[token]), abs=2e-4)
                assert one["rank"] == int((row >= row[token]).sum())
    assert not hasattr(chat.choices[0], "prompt_logprobs")


def test_a_prompt_and_its_rendering(served, tokenizer) -> None:
    """The text is the prompt as it was sent; its tokens are those that are read, in a template."""
    found = served.client().completions.create(
        model="arms", prompt=EGGS, max_tokens=4, temperature=0, echo=True, logprobs=0,
        extra_body={"return_tokens_as_token_ids": True, "return_token_ids": True},
    )  # fmt: skip
    choice, said = found.choices[0], found.choices[0].logprobs
    ids = choice.prompt_token_ids + choice.token_ids
    assert said.tokens == [f"token_id:{id}" for id in ids]
    assert choice.text.startswith(EGGS) and len(choice.token_ids) == 4
    words = [tokenizer.decode([id]) for id in ids]
    for word, start in zip(words, said.text_offset, strict=True):
        if word in (" do", " bo", "?"):
            assert choice.text[start:].startswith(word)
    assert sorted(said.text_offset) == said.text_offset


@pytest.mark.parametrize(("samples", "tokens"), [(1, 0), (2, 4)])
def test_a_stream_adds_up(served, samples, tokens) -> None:
    prompts: Any = [EGGS, [1, 421, 310]]
    settings = {"max_tokens": tokens, "echo": True, "logprobs": 2, "n": samples, "seed": 4}
    client = served.client()
    complete = client.completions.create(model="arms", prompt=prompts, **settings)
    texts, logprobs = dict[int, str](), dict[int, list[Any]]()
    for chunk in client.completions.create(model="arms", prompt=prompts, stream=True, **settings):
        [choice] = chunk.choices
        texts[choice.index] = texts.get(choice.index, "") + choice.text
        logprobs.setdefault(choice.index, []).append(choice.logprobs)
    assert [texts[choice.index] for choice in complete.choices] == [
        c.text for c in complete.choices
    ]
    for choice in complete.choices:
        for name, values in choice.logprobs.model_dump().items():
            pieces = [each for said in logprobs[choice.index] for each in getattr(said, name)]
            assert pieces == values, name


def test_what_cannot_be_said_is_refused_by_name(served) -> None:
    said = served.post("/v1/completions", {"model": "base + arm_help@none", "prompt": EGGS,
                                           "prompt_logprobs": 1})  # fmt: skip
    assert said.status_code == 400
    error = said.json()["error"]
    assert error["param"] == "prompt_logprobs"
    assert "arm_help@none reads this prompt in other tokens than base" in error["message"]


def test_many_clients_are_scored_together_and_each_gets_its_own(served, offline) -> None:
    async def ask(text: str) -> Any:
        return await served.asynchronous().completions.create(
            model="arms", prompt=text, max_tokens=0, echo=True, logprobs=0
        )

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(ask(text) for text in TEXTS * 3))

    decoder = offline.decoder("arms")
    for text, found in zip(TEXTS * 3, asyncio.run(all_at_once()), strict=True):
        ids = decoder.session.builder.requests(text)[0].prompts[0]
        [own] = decoder.loglikelihood(ids[:1], [ids[1:]])
        said = found.choices[0].logprobs.token_logprobs
        assert said[1:] == pytest.approx(own.logprobs, abs=1e-5)


@pytest.fixture
def decoding(run_file) -> Decoding:
    made = Decoding(run_file)
    assert made.ask(Compile(1, "base + (1-a)*arm_help", {"a": 0.5})).pickled
    return made


def test_others_get_a_token_between_two_forwards(decoding) -> None:
    row = decoding.submit(1, [EGGS])
    ids = [1, *[421, 310, 316] * 60]
    asked = [decoding.send(ReadPrompts(1, [ids[:-last]] * 4, {}, 1)) for last in (1, 2, 3)]
    turns = len(decoding.heard)
    replies = [decoding.reply(number) for number in asked]
    between = decoding.heard[turns:]
    assert len(between) >= 12 * (len(ids) - 3) / PIECE  # a forward has so many tokens, at most
    assert all(said.counts.seconds is not None for said in between)
    assert decoding.told(row) and decoding.jobs.service.busy
    for last, readings in zip((1, 2, 3), replies, strict=True):
        assert [reading.token_ids for reading in readings] == [ids[:-last]] * 4
        assert all(len(reading.logprobs) == len(ids) - last for reading in readings)


def test_a_request_of_many_prompts_lets_others_in(decoding) -> None:
    ids = [1, *[421, 310, 316] * 20]
    long = decoding.send(ReadPrompts(1, [ids] * (3 * TOGETHER), {}, 0))
    decoding.turn()
    short = decoding.send(ReadPrompts(1, [ids[:9]], {}, 0))
    [reading] = decoding.reply(short)
    assert len(reading.logprobs) == 9
    assert not any(number == long for said in decoding.heard for number, _ in said.replies)
    readings = decoding.reply(long)
    assert [len(each.logprobs) for each in readings] == [len(ids)] * 3 * TOGETHER


@pytest.mark.parametrize(
    ("formula", "why"),
    [
        ("base + arm_help@none", "in other tokens than base"),
        ("top_k(base, 1) + top_k(-1*base, 1)", "every token is excluded"),
    ],
)
def test_who_leaves_is_not_waited_for_and_who_fails_fails_alone(decoding, formula, why) -> None:
    assert decoding.ask(Compile(2, formula, {})).pickled
    first = decoding.send(ReadPrompts(2, [[1]], {}, 0))  # of one token, which follows nothing
    failing = decoding.send(ReadPrompts(2, [[1], [1, 421]], {}, 0))
    leaving = decoding.send(ReadPrompts(2, [[1], [1]], {}, 0))
    decoding.turn()
    decoding.send(Cancel(leaving))
    error = decoding.reply(failing)
    assert isinstance(error, Failed) and why in str(error.error)
    [reading] = decoding.reply(first)
    assert (reading.token_ids, reading.logprobs) == ([1], [0.0])
    assert not any(number == leaving for said in decoding.heard for number, _ in said.replies)
    while decoding.loop._prompts.busy:  # and it is over soon
        decoding.turn()
