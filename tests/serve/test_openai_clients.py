"""What the openai client gets is what ``generate`` gives: streamed or not, alone or not."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import openai
import pytest

from descant.demo import PROMPTS

EGGS = "How do I boil eggs?"
CHAT = [{"role": "user", "content": EGGS}]
REASONS = {"eos": "stop", "stop": "stop", "length": "length"}


def same(choices: Any, completions: Any) -> None:
    """Choices of the interface are these completions, in their order."""
    assert [choice.index for choice in choices] == list(range(len(completions)))
    for choice, expected in zip(choices, completions, strict=True):
        text = choice.text if hasattr(choice, "text") else choice.message.content
        assert text == expected.text
        assert choice.finish_reason == REASONS[expected.finish_reason]
        assert choice.token_ids == expected.token_ids


PROCESSED = "processed_logprobs"
IDS = {"return_token_ids": True}


@pytest.mark.parametrize("formula", ["arms", "safe", "best", "base", "base | top_k(3)"])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_completion_is_the_offline_one(served, offline, formula, temperature) -> None:
    found = served.client().completions.create(
        model=formula, prompt=EGGS, max_tokens=9, temperature=temperature, seed=3, extra_body=IDS
    )
    expected = offline(formula, EGGS, max_new_tokens=9, temperature=temperature, seed=3)
    same(found.choices, expected)
    assert (found.object, found.model, found.id[:5]) == ("text_completion", formula, "cmpl-")
    tokens = len(expected[0].token_ids)
    assert found.usage.completion_tokens == tokens
    assert found.usage.total_tokens == found.usage.prompt_tokens + tokens


def test_a_helper_that_compares_can_fail(served, offline) -> None:
    found = served.client().completions.create(
        model="base", prompt=EGGS, max_tokens=9, seed=3, extra_body=IDS
    )
    with pytest.raises(AssertionError):
        same(found.choices, offline("base", EGGS, max_new_tokens=9, do_sample=True, seed=4))


def test_defaults_are_openais(served, offline) -> None:
    found = served.client().completions.create(model="base", prompt=EGGS, seed=5, extra_body=IDS)
    same(found.choices, offline("base", EGGS, max_new_tokens=16, temperature=1.0, seed=5))
    chat = served.client().chat.completions.create(
        model="base", messages=CHAT, seed=5, extra_body=IDS
    )
    room = 200  # of the server's max_tokens; the longest answers of the demo models are shorter
    same(chat.choices, offline("base", CHAT, max_new_tokens=room, temperature=1.0, seed=5))


def test_parameters_of_a_request(served, offline) -> None:
    for a in (0.0, 0.7, 2):
        found = served.client().completions.create(
            model="arms", prompt=EGGS, max_tokens=8, seed=1, extra_body={"params": {"a": a}, **IDS}
        )
        arguments = {"temperature": 1.0, "seed": 1, "params": {"a": a}}
        same(found.choices, offline("arms", EGGS, max_new_tokens=8, **arguments))


def test_many_prompts_and_samples_are_choices_in_order(served, offline) -> None:
    prompts = list(PROMPTS[:3])
    found = served.client().completions.create(
        model="arms", prompt=prompts, n=2, max_tokens=7, seed=2, extra_body=IDS
    )
    settings = {"max_new_tokens": 7, "temperature": 1.0, "seed": 2, "num_return_sequences": 2}
    same(found.choices, [one for text in prompts for one in offline("arms", text, **settings)])


@pytest.mark.parametrize("prompt", [[1, 9, 8], [[1, 9, 8], [4, 7]]])
def test_token_ids_are_prompts(served, offline, prompt) -> None:
    found = served.client().completions.create(
        model="base", prompt=prompt, max_tokens=5, temperature=0, extra_body=IDS
    )
    each = prompt if isinstance(prompt[0], list) else [prompt]
    same(found.choices, [offline("base", one, max_new_tokens=5)[0] for one in each])
    assert found.usage.prompt_tokens == sum(map(len, each))


def test_stop_strings(served, offline) -> None:
    text = offline("base", EGGS, max_new_tokens=24)[0].text
    stop = text[8:11]
    found = served.client().completions.create(
        model="base", prompt=EGGS, max_tokens=24, temperature=0, stop=[stop, "\0"], extra_body=IDS
    )
    same(found.choices, offline("base", EGGS, max_new_tokens=24, stop_strings=[stop, "\0"]))
    assert found.choices[0].finish_reason == "stop"
    assert found.choices[0].text == text[: text.index(stop)]


def test_components_are_sampled(served, offline) -> None:
    formula = "mix(0.5: base + 2*arm_help, 0.5: base + 2*arm_harm)"
    settings = {"max_tokens": 60, "seed": 7, "extra_body": {**IDS, "sample_components": True}}
    found = served.client().completions.create(model=formula, prompt=EGGS, **settings)
    expected = offline(formula, EGGS, max_new_tokens=60, seed=7, sample_components=True)
    same(found.choices, expected)
    plain = offline(formula, EGGS, max_new_tokens=60, seed=7, temperature=1.0)
    assert [one.token_ids for one in plain] != [one.token_ids for one in expected]


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize("formula", ["arms", "best", "base + 0.5*arm_harm"])
def test_a_draft_changes_no_token(served, offline, formula, temperature) -> None:
    for draft in ("base", "base | top_k(30)", "prompt", "auto", None):
        body = {**IDS, "draft": draft} | ({"draft_length": 3} if draft else {})
        settings = {"max_tokens": 20, "seed": 7, "temperature": temperature, "extra_body": body}
        found = served.client().completions.create(model=formula, prompt=EGGS, **settings)
        own = {"max_new_tokens": 20, "seed": 7, "temperature": temperature}
        same(found.choices, offline(formula, EGGS, **own))


def test_a_drafted_stream_adds_up_and_is_counted(served, offline) -> None:
    settings = {"max_tokens": 24, "seed": 7, "temperature": 0.8, "top_p": 0.9, "logprobs": 1}
    body = {"draft": "base", "draft_length": 4}
    client = served.client()
    plain = client.completions.create(model="arms", prompt=EGGS, **settings)
    stream = client.completions.create(
        model="arms", prompt=EGGS, stream=True, extra_body=body, **settings
    )
    parts = [part.choices[0] for part in stream]
    assert "".join(part.text for part in parts) == plain.choices[0].text
    logprobs = [x for part in parts if part.logprobs for x in part.logprobs.token_logprobs]
    assert logprobs == pytest.approx(plain.choices[0].logprobs.token_logprobs, abs=1e-4)
    text = httpx.get(f"{served.url}/metrics").text
    counts = dict(line.split(" ") for line in text.splitlines() if line.startswith("descant_spec"))
    drafted = float(counts["descant_spec_decode_num_draft_tokens_total"])
    accepted = float(counts["descant_spec_decode_num_accepted_tokens_total"])
    assert 0 < accepted <= drafted and float(counts["descant_spec_decode_num_drafts_total"]) > 0


@pytest.mark.parametrize(
    ("body", "said", "param"),
    [
        ({"draft": "bsae"}, "bsae is not declared", "draft"),
        ({"draft": "base | best_of(reward_help, n=2)"}, "chooses among texts", None),
        ({"draft_length": 3}, "give draft, too", "draft_length"),
        ({"draft": "base", "draft_length": 17}, "16", "draft_length"),
    ],
)
def test_a_draft_that_cannot_be_is_refused(served, body, said, param) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as found:
        served.client().completions.create(model="arms", prompt=EGGS, extra_body=body)
    assert param is None or found.value.param == param


@pytest.mark.parametrize("formula", ["arms", "best", "base + 0.5*arm_harm | min_p(0.01)"])
def test_top_p_comes_after_the_temperature(served, offline, formula) -> None:
    found = served.client().completions.create(
        model=formula, prompt=EGGS, max_tokens=9, seed=7, temperature=1.4, top_p=0.6, extra_body=IDS
    )
    text = {"arms": "base + (1-a)*arm_help + a*arm_harm | temperature(1.4) | top_p(0.6)",
            "best": "base | temperature(1.4) | top_p(0.6) | best_of(0.5*reward_help + "
                    "0.5*reward_harm, n=4)"}.get(formula)  # fmt: skip
    text = text or f"{formula} | temperature(1.4) | top_p(0.6)"
    same(found.choices, offline(text, EGGS, max_new_tokens=9, temperature=1.0, seed=7))
    best = {"max_tokens": 5, "temperature": 0, "seed": 1}
    plain = served.client().completions.create(model=formula, prompt=EGGS, **best)
    nucleus = served.client().completions.create(model=formula, prompt=EGGS, top_p=0.1, **best)
    assert plain.choices[0].text == nucleus.choices[0].text


FIELDS: dict[str, Any] = {"presence_penalty": 0.6, "frequency_penalty": -0.3}  # OpenAI's own
FIELDS |= {"logit_bias": {"38": -100, "40": 2.5}, "top_p": 0.9}
VLLMS = {"top_k": 30, "min_p": 0.02, "repetition_penalty": 1.2, "min_tokens": 4}
VLLMS |= {"stop_token_ids": [45, 101], "include_stop_str_in_output": True}
VLLMS |= {"skip_special_tokens": False, "ignore_eos": True}


@pytest.mark.parametrize("temperature", [0.0, 1.2])
@pytest.mark.parametrize("formula", ["arms", "safe", "best"])
def test_sampling_fields_are_those_of_generate(served, offline, formula, temperature) -> None:
    settings = {"model": formula, "max_tokens": 16, "seed": 3, "temperature": temperature}
    found = served.client().completions.create(
        prompt=EGGS, **settings, **FIELDS, extra_body={**VLLMS, **IDS}
    )
    offline_settings = {"max_new_tokens": 16, "seed": 3, "temperature": temperature}
    same(found.choices, offline(formula, EGGS, **offline_settings, **FIELDS, **VLLMS))
    plain = served.client().completions.create(prompt=EGGS, **settings, extra_body=IDS)
    assert plain.choices[0].token_ids != found.choices[0].token_ids
    drafted = served.client().completions.create(
        prompt=EGGS, **settings, **FIELDS, extra_body={**VLLMS, **IDS, "draft": "prompt"}
    )
    assert drafted.choices[0].token_ids == found.choices[0].token_ids


@pytest.mark.parametrize("top_p", [1.0, 0.6])
@pytest.mark.parametrize("temperature", [0.0, 1.4])
def test_logprobs_are_the_formulas_own(served, offline, temperature, top_p) -> None:
    """Before the request's temperature and top_p, and with the formula's own stages."""
    formula = "base + a*arm_help | top_k(40)"
    asked = {"model": formula, "max_tokens": 6, "seed": 4, "temperature": temperature,
             "top_p": top_p, "extra_body": {**IDS, "params": {"a": 0.5}}}  # fmt: skip
    text = served.client().completions.create(prompt=EGGS, logprobs=3, **asked).choices[0]
    settings = {"max_new_tokens": 6, "params": {"a": 0.5}, "logprobs": True, "top_logprobs": 3}
    path = f"{formula} | temperature(1.4) | top_p(0.6)" if temperature and top_p < 1 else formula
    heat = 1.0 if path != formula else temperature
    [drawn] = offline(path, EGGS, seed=4, temperature=heat, **settings)
    assert text.token_ids == drawn.token_ids
    decoder = offline.decoder(formula)
    ids = drawn.token_ids
    [scored] = decoder.loglikelihood(EGGS, [ids], params={"a": 0.5})
    assert text.logprobs.token_logprobs == pytest.approx(scored.logprobs, abs=1e-4)
    rows = decoder.scores(EGGS, ids[:-1], params={"a": 0.5}).log_softmax(dim=-1)
    for place, best in enumerate(text.logprobs.top_logprobs):
        named = [*rows[place].topk(3).indices.tolist(), ids[place]]
        want = {decoder.tokenizer.decode([i]): float(rows[place, i]) for i in named}
        assert best == pytest.approx(want, abs=1e-4)
    [processed] = (
        served.client()
        .completions.create(
            prompt=EGGS, logprobs=0,
            **{**asked, "extra_body": {**asked["extra_body"], "logprobs_mode": PROCESSED}},
        )
        .choices
    )  # fmt: skip
    [expected] = offline(path, EGGS, seed=4, temperature=heat, **settings, logprobs_mode=PROCESSED)
    assert processed.logprobs.token_logprobs == pytest.approx(expected.logprobs, abs=1e-4)
    assert all(len(best) == 1 for best in processed.logprobs.top_logprobs)


def test_a_chats_logprobs_have_the_best_tokens(served, offline) -> None:
    asked = {"model": "arms", "messages": CHAT, "max_tokens": 5, "temperature": 0}
    found = served.client().chat.completions.create(logprobs=True, top_logprobs=4, **asked)
    [expected] = offline("arms", CHAT, max_new_tokens=5, logprobs=True, top_logprobs=4)
    for one, best in zip(found.choices[0].logprobs.content, expected.top_logprobs, strict=True):
        values = [entry.logprob for entry in one.top_logprobs]
        assert values == pytest.approx([*best.values()], abs=1e-4)
        assert (one.token, one.logprob) == (one.top_logprobs[0].token, values[0])
    none = served.client().chat.completions.create(logprobs=True, top_logprobs=0, **asked)
    assert [one.top_logprobs for one in none.choices[0].logprobs.content] == [[]] * 5
    chunks = served.client().chat.completions.create(
        logprobs=True, top_logprobs=4, stream=True, **asked
    )
    streamed = [
        one
        for chunk in chunks
        if chunk.choices and chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content
    ]
    assert streamed == found.choices[0].logprobs.content


@pytest.mark.parametrize("temperature", [1.2e-38, 1e-45])
def test_a_temperature_that_float32_cannot_divide_by_is_0(served, offline, temperature) -> None:
    for more in ({}, {"top_p": 0.5}):
        found = served.client().completions.create(
            model="arms", prompt=EGGS, max_tokens=6, temperature=temperature, extra_body=IDS, **more
        )
        same(found.choices, offline("arms", EGGS, max_new_tokens=6))


def test_logprobs_are_those_of_the_drawn_tokens(served, offline) -> None:
    settings = {"max_new_tokens": 7, "temperature": 0.9, "seed": 4, "logprobs": True}
    [expected] = offline("arms", EGGS, **settings)
    asked = {"model": "arms", "max_tokens": 7, "temperature": 0.9, "seed": 4}
    text = served.client().completions.create(prompt=EGGS, logprobs=0, **asked).choices[0]
    assert text.logprobs.token_logprobs == pytest.approx(expected.logprobs, abs=1e-5)
    assert "".join(text.logprobs.tokens) == text.text
    assert text.logprobs.text_offset[:2] == [0, len(text.logprobs.tokens[0])]
    chat = served.client().chat.completions.create(messages=CHAT, logprobs=True, **asked).choices[0]
    said = [one.logprob for one in chat.logprobs.content]
    assert said == pytest.approx(offline("arms", CHAT, **settings)[0].logprobs, abs=1e-5)
    assert b"".join(bytes(one.bytes) for one in chat.logprobs.content).decode() == (
        chat.message.content
    )


def test_the_bytes_of_tokens_are_the_text(served) -> None:
    """Also where tokens are parts of a character: at this temperature most are."""
    asked: dict[str, Any] = {"model": "base", "max_tokens": 60, "temperature": 3.0, "seed": 1}
    client, broken = served.client(), "\N{REPLACEMENT CHARACTER}"
    chat = client.chat.completions.create(messages=CHAT, logprobs=True, **asked).choices[0]
    tokens = chat.logprobs.content
    raw = b"".join(bytes(token.bytes) for token in tokens)
    assert raw.decode("utf-8", "replace") == chat.message.content
    assert any(token.token == broken for token in tokens)
    for token in tokens:  # a special token has no bytes
        assert bytes(token.bytes).decode("utf-8", "replace") in (token.token, "")
    text = client.completions.create(prompt=EGGS, logprobs=0, **asked).choices[0]
    offsets = text.logprobs.text_offset
    assert offsets == sorted(offsets) and offsets[-1] <= len(text.text)
    for token, offset in zip(text.logprobs.tokens, offsets, strict=True):
        assert broken in token or text.text[offset:].lstrip(broken).startswith(token)
    chunks = client.completions.create(prompt=EGGS, logprobs=0, stream=True, **asked)
    streamed = [chunk.choices[0] for chunk in chunks]
    assert [at for choice in streamed for at in choice.logprobs.text_offset] == offsets
    assert "".join(choice.text for choice in streamed) == text.text


@pytest.mark.parametrize("formula", ["arms", "best"])
def test_a_stream_adds_up_to_the_answer(served, offline, formula) -> None:
    asked: dict[str, Any] = {"model": formula, "max_tokens": 12, "seed": 6, "n": 2, "stop": "e s"}
    settings = {"max_new_tokens": 12, "temperature": 1.0, "seed": 6, "num_return_sequences": 2}
    expected = offline(formula, EGGS, stop_strings="e s", **settings)
    chunks = list(
        served.client().completions.create(
            prompt=EGGS,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=IDS,
            **asked,
        )
    )
    for index, one in enumerate(expected):
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert "".join(choice.text for choice in mine) == one.text
        assert [token for choice in mine for token in choice.token_ids] == one.token_ids
        reasons = [choice.finish_reason for choice in mine]
        assert reasons == [None] * (len(mine) - 1) + [REASONS[one.finish_reason]]
        assert len(mine) > 3 or formula == "best"
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == sum(len(one.token_ids) for one in expected)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_chat_stream(served, offline) -> None:
    chunks = list(
        served.client().chat.completions.create(
            model="arms", messages=CHAT, max_completion_tokens=9, temperature=0, stream=True
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant" and all(one.role is None for one in deltas[1:])
    [expected] = offline("arms", CHAT, max_new_tokens=9)
    assert "".join(one.content or "" for one in deltas) == expected.text
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def test_parts_of_a_message_are_one_text(served, offline) -> None:
    parts = [{"type": "text", "text": "How do I"}, {"type": "text", "text": "boil eggs?"}]
    joined = [{"role": "user", "content": "How do I\nboil eggs?"}]
    found = served.client().chat.completions.create(
        model="base", messages=[{"role": "user", "content": parts}], max_tokens=6, temperature=0,
        extra_body=IDS,
    )  # fmt: skip
    same(found.choices, offline("base", joined, max_new_tokens=6))


def test_an_answer_goes_back_as_it_came(served, offline) -> None:
    client, asked = served.client(), {"model": "base", "max_tokens": 5, "temperature": 0}
    said = client.chat.completions.create(messages=CHAT, **asked).choices[0].message
    [expected] = offline("base", CHAT, max_new_tokens=10)
    for message in (said, said.model_dump()):  # with its refusal, tool_calls, audio: all null
        more = client.chat.completions.create(messages=[*CHAT, message], **asked)
        assert said.content + more.choices[0].message.content == expected.text


def test_the_models_are_the_formulas(served, run_file) -> None:
    found = served.client().models.list().data
    assert {one.id: one.formula for one in found} == run_file.named
    assert served.client().models.retrieve("arms").params == {"a": 0.5}


def test_requests_among_others_are_the_offline_ones(served, offline) -> None:
    draw = random.Random(0)
    formulas = ["arms", "safe", "best", "base", "base@none + a*arm_help | top_k(20)"]
    asked = [
        {
            "model": draw.choice(formulas), "prompt": draw.choice(PROMPTS), "seed": i,
            "max_tokens": draw.randrange(1, 14), "temperature": draw.choice([0, 0.7, 1.0]),
            "n": draw.choice([1, 1, 2]), "extra_body": {"params": {"a": draw.random()}, **IDS},
        }
        for i in range(16)
    ]  # fmt: skip

    async def all_at_once() -> list[Any]:
        async with served.asynchronous() as client:

            async def streamed(one: Any) -> list[list[int]]:
                ids: list[list[int]] = [[] for _ in range(one["n"])]
                async for chunk in await client.completions.create(stream=True, **one):
                    ids[chunk.choices[0].index] += chunk.choices[0].token_ids
                return ids

            async def complete(one: Any) -> list[list[int]]:
                return [c.token_ids for c in (await client.completions.create(**one)).choices]

            work = [(streamed if i % 2 else complete)(one) for i, one in enumerate(asked)]
            return await asyncio.gather(*work)

    for one, found in zip(asked, asyncio.run(all_at_once()), strict=True):
        expected = offline(
            one["model"], one["prompt"], max_new_tokens=one["max_tokens"], seed=one["seed"],
            temperature=one["temperature"], num_return_sequences=one["n"],
            params=one["extra_body"]["params"],
        )  # fmt: skip
        assert found == [completion.token_ids for completion in expected]
