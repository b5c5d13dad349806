"""What the tests of llama.cpp's server and of the openai client assert."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest
from facts import CHAT, EGGS, IDS, MODEL, chat, complete, fact, refused
from servers import Served, listening

from descant.demo import models
from descant.inputs.runfile import validated

TOOLS = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
TOLD_OF_TOOLS = {
    "formula": "base",
    "models": {"base": {**models()["base"], "template": TOOLS + str(models()["base"]["template"])}},
}


@fact("llama.cpp", "system_fingerprint present")
def _(served: Served) -> None:
    found = chat(served)
    assert found.system_fingerprint == complete(served).system_fingerprint
    assert found.system_fingerprint.startswith("descant-")
    assert all(one.system_fingerprint for one in chat(served, stream=True))


@fact("llama.cpp", "stream ends with [DONE]")
def _(served: Served) -> None:
    body = {"model": MODEL, "messages": CHAT, "max_tokens": 3, "stream": True}
    lines = served.post("/v1/chat/completions", body).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: "))["id"] for line in lines[:-1])


@fact("llama.cpp", "same seed T=0 x4 same; T=1 seeds differ")
def _(served: Served) -> None:
    same = {complete(served, seed=42, temperature=0).choices[0].text for _ in range(4)}
    assert len(same) == 1
    settings = {"temperature": 1.0, "max_tokens": 20}
    assert len({complete(served, seed=seed, **settings).choices[0].text for seed in range(4)}) > 1


@fact("llama.cpp", "batch mixed strings and ids")
def _(served: Served) -> None:
    prompts: Any = [EGGS, IDS]
    found = complete(served, prompts, extra={"return_token_ids": True})
    alone = [complete(served, prompt).choices[0].text for prompt in prompts]
    assert [choice.text for choice in found.choices] == alone
    assert found.choices[1].prompt_token_ids == IDS


WRONG = {
    "None": None, "str": "hello", "[123]": [123], "role int": [{"role": 3, "content": "a"}],
    "content int": [{"role": "user", "content": 5}], "second empty": [*CHAT, {}],
    "two assistants at end": [*CHAT, *[{"role": "assistant", "content": "a"}] * 2],
}  # fmt: skip


@fact("llama.cpp", *(f"invalid messages {kind} -> 400" for kind in WRONG))
def _(served: Served, what: str) -> None:
    messages = WRONG[what.removeprefix("invalid messages ").removesuffix(" -> 400")]
    said = served.post("/v1/chat/completions", {"model": MODEL, "messages": messages})
    assert said.status_code == 400 and said.json()["error"]["message"]


@fact("llama.cpp", "logprobs aggregated tokens == text; <=0; bytes not None")
def _(served: Served) -> None:
    [choice] = chat(served, logprobs=True, top_logprobs=5, max_tokens=12).choices
    text = b"".join(bytes(one.bytes) for one in choice.logprobs.content).decode()
    assert text == choice.message.content == "".join(one.token for one in choice.logprobs.content)
    assert all(one.logprob <= 0 and one.bytes for one in choice.logprobs.content)
    assert all(len(one.top_logprobs) == 5 for one in choice.logprobs.content)


@fact("llama.cpp", "response_format {'type':'sound'} -> 400")
def _(served: Served) -> None:
    refused(chat, served, response_format={"type": "sound"})


@fact("llama.cpp", "grammar / json_schema")
def _(served: Served) -> None:
    grammar = {"structured_outputs": {"grammar": 'start: "a" ("b" | "c")'}}
    assert complete(served, extra=grammar).choices[0].text in ("ab", "ac")
    schema = {"structured_outputs": {"json": {"enum": ["hen", "egg"]}}}
    assert json.loads(complete(served, extra=schema, max_tokens=20).choices[0].text)


@fact("llama.cpp", "GET/POST /models")
def _(served: Served) -> None:
    listed = httpx.get(f"{served.url}/models").json()
    assert listed == httpx.get(f"{served.url}/v1/models").json()
    assert MODEL in {model["id"] for model in listed["data"]}


@fact("llama.cpp", "GET/POST /tokenize")
def _(served: Served) -> None:
    found = served.post("/tokenize", {"prompt": EGGS}).json()
    assert len(found["tokens"]) == found["count"] > 3


@fact("llama.cpp", "HEAD/OPTIONS do not crash")
def _(served: Served) -> None:
    for path in ("/health", "/v1/models", "/v1/chat/completions", "/nowhere", "/tokenize"):
        for method in ("HEAD", "OPTIONS"):
            assert httpx.request(method, f"{served.url}{path}").status_code < 500
    assert httpx.get(f"{served.url}/health").status_code == 200


@fact("llama.cpp", "parallel slots: 6 seeded at once == alone")
def _(served: Served) -> None:
    async def ask(seed: int) -> str:
        found = await served.asynchronous().completions.create(
            model=MODEL, prompt=EGGS, max_tokens=12, seed=seed, temperature=1.0
        )
        return found.choices[0].text

    async def at_once() -> list[str]:
        return await asyncio.gather(*map(ask, range(6)))

    settings = {"max_tokens": 12, "temperature": 1.0}
    alone = [complete(served, seed=seed, **settings).choices[0].text for seed in range(6)]
    assert asyncio.run(at_once()) == alone


@fact("llama.cpp", "max_tokens=0")
def _(served: Served) -> None:
    found = complete(served, max_tokens=0)
    assert (found.choices[0].text, found.choices[0].finish_reason) == ("", "length")
    assert found.usage.completion_tokens == 0 and found.usage.prompt_tokens > 0
    assert chat(served, max_tokens=0).choices[0].message.content == ""


@fact("openai", "cancelled stream frees slots")
def _(served: Served) -> None:
    served.wait(served.idle)
    stream = complete(served, max_tokens=200, stream=True, extra={"logprobs": 1})
    next(iter(stream))
    stream.close()
    served.wait(served.idle)


@fact("openai", "with_streaming_response")
def _(served: Served) -> None:
    create = served.client().chat.completions.with_streaming_response.create
    with create(model=MODEL, messages=CHAT, max_tokens=3) as response:
        assert response.headers["content-type"].startswith("application/json")
        assert response.parse().choices[0].message.content


@fact("openai", "chat.completions.stream() helper")
def _(served: Served) -> None:
    settings: dict[str, Any] = {"model": MODEL, "messages": CHAT, "max_tokens": 200}
    with served.client().chat.completions.stream(temperature=0, **settings) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= set(events)
    expected = chat(served, max_tokens=200).choices[0]
    assert final.choices[0].message.content == expected.message.content
    assert final.choices[0].finish_reason == expected.finish_reason == "stop"


@fact("openai", "tools")
def _(served: Served) -> None:
    """A forced call is one, with arguments that fit."""
    schema = {
        "type": "object", "properties": {"hens": {"enum": [1, 2]}}, "required": ["hens"],
        "additionalProperties": False,
    }  # fmt: skip
    tool = {"type": "function", "function": {"name": "count", "parameters": schema}}
    named = {"type": "function", "function": {"name": "count"}}
    with listening(validated(TOLD_OF_TOOLS, "here"), served.server.limits) as told:
        found = chat(told, model="formula", tools=[tool], tool_choice=named, max_tokens=40)
    [call] = found.choices[0].message.tool_calls
    assert call.function.name == "count" and json.loads(call.function.arguments)["hens"] in (1, 2)


@fact(
    "openai", "store=False, metadata=None, service_tier auto, parallel_tool_calls, modalities text"
)
def _(served: Served) -> None:
    neutral = {
        "store": False, "metadata": None, "service_tier": "auto", "parallel_tool_calls": True,
        "modalities": ["text"], "user": "me",
    }  # fmt: skip
    assert chat(served, **neutral).choices[0].message.content
    body = {"model": MODEL, "messages": CHAT, "max_tokens": 2}
    plain = served.post("/v1/chat/completions", body)
    taken = served.post("/v1/chat/completions", {**body, "store": True, "metadata": {"a": "b"}})
    assert taken.headers["x-ignored-fields"] == "metadata, store"
    assert "x-ignored-fields" not in plain.headers


@fact("openai", "embeddings -> 404")
def _(served: Served) -> None:
    with pytest.raises(openai.NotFoundError):
        served.client().embeddings.create(model=MODEL, input="x")


@fact("openai", "completion best_of=1,suffix=None,echo=False,n=1 accepted")
def _(served: Served) -> None:
    assert complete(served, best_of=1, suffix=None, echo=False, n=1).choices[0].text
