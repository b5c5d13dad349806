"""What vLLM's tests assert of chats, and of its server."""

from __future__ import annotations

import json

import httpx
import openai
import pytest
from facts import CHAT, EGGS, MODEL, chat, complete, fact, refused
from servers import Served
from vllm_completions import OPTIONS, usage_is

SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["hens"],
    "properties": {"hens": {"enum": [0, 1, 2, 3]}},
}  # fmt: skip


@fact("vllm", "chat no logprobs", "chat zero logprobs (top_logprobs=0)", "chat top_logprobs=5")
def _(served: Served, what: str) -> None:
    if what == "chat no logprobs":
        assert chat(served, logprobs=False).choices[0].logprobs is None
        return
    best = int(what[-1]) if what[-1].isdigit() else 0
    said = chat(served, logprobs=True, top_logprobs=best).choices[0].logprobs
    assert [len(one.top_logprobs) for one in said.content] == [best] * 5


@fact("vllm", "top_logprobs without logprobs")
def _(served: Served) -> None:
    refused(chat, served, top_logprobs=5, logprobs=False)


@fact("vllm", "chat prompt_logprobs=1", "chat prompt_logprobs=0")
def _(served: Served, what: str) -> None:
    found = chat(served, extra={"prompt_logprobs": int(what[-1])})
    assert found.prompt_logprobs[0] is None and len(found.prompt_logprobs) > 1
    assert all(at for at in found.prompt_logprobs[1:])


@fact("vllm", "single chat session, usage, multi-turn")
def _(served: Served) -> None:
    found = chat(served, logprobs=True, top_logprobs=5)
    [choice] = found.choices
    assert choice.finish_reason == "length" and choice.message.role == "assistant"
    counts = found.usage
    assert counts.completion_tokens == 5 and counts.prompt_tokens > 5
    assert counts.total_tokens == counts.prompt_tokens + 5
    more = chat(served, [*CHAT, choice.message.model_dump(exclude_none=True)])
    assert len(more.choices[0].message.content) >= 1


@fact("vllm", "chat streaming = non streaming, first delta role, one finish")
def _(served: Served) -> None:
    chunks = [chunk.choices[0] for chunk in chat(served, stream=True)]
    assert chunks[0].delta.role == "assistant"
    assert [one.finish_reason for one in chunks if one.finish_reason] == ["length"]
    text = "".join(one.delta.content or "" for one in chunks)
    assert text == chat(served).choices[0].message.content


@fact("vllm", "chat streaming: last delta has content")
def _(served: Served) -> None:
    *_, last = chat(served, stream=True)
    assert last.choices[0].finish_reason == "length" and last.choices[0].delta.content


@fact(
    "vllm", *(f"chat stream_options {options}" for options in OPTIONS if "False, 'c" not in options)
)
def _(served: Served, what: str) -> None:
    options = OPTIONS[what.removeprefix("chat stream_options ")]
    usage_is([*chat(served, stream=True, stream_options=options)], options)


@fact("vllm", "chat continuous_usage_stats True")
def _(served: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = [chunk.usage for chunk in chat(served, stream=True, stream_options=options)]
    assert counts[0].prompt_tokens > 0 and counts[0].completion_tokens == 0
    so_far = [count.completion_tokens for count in counts]
    assert so_far == sorted(so_far) and so_far[-1] == 5
    assert all(one.total_tokens == one.prompt_tokens + one.completion_tokens for one in counts)


@fact("vllm", "chat stream=False stream_options={'include_usage': None} -> 400")
def _(served: Served) -> None:
    for options in ({"include_usage": None}, {"include_usage": True}):
        refused(chat, served, stream=False, stream_options=options)


@fact("vllm", "structured choice")
def _(served: Served) -> None:
    choices = ["Python", "Java", "C++"]
    extra = {"structured_outputs": {"choice": choices}}
    found = chat(served, extra=extra, temperature=0.7, max_tokens=20)
    assert found.choices[0].message.content in choices


@fact("vllm", "response_format json_schema")
def _(served: Served) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "yard", "schema": SCHEMA}}
    found = chat(served, response_format=format, max_tokens=60)
    assert json.loads(found.choices[0].message.content)["hens"] in range(4)


@fact("vllm", "response_format json_schema without schema -> 400")
def _(served: Served) -> None:
    refused(chat, served, response_format={"type": "json_schema"})


@fact("vllm", "complex message content [text parts]")
def _(served: Served) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": EGGS}]}]
    assert chat(served, parts).choices[0].message.content == chat(served).choices[0].message.content


@fact("vllm", "several text parts joined as vLLM/llama.cpp (newline)")
def _(served: Served) -> None:
    parts = [{"type": "text", "text": text} for text in ("How do I", "boil eggs?")]
    joined = [{"role": "user", "content": "How do I\nboil eggs?"}]
    ids = {"return_token_ids": True}
    found = [
        chat(served, messages, extra=ids).prompt_token_ids
        for messages in ([{"role": "user", "content": parts}], joined)
    ]
    assert found[0] == found[1]


@fact("openai", "developer role accepted")
def _(served: Served) -> None:
    messages = [{"role": "developer", "content": ""}, *CHAT]
    assert chat(served, messages).choices[0].message.content


SEEDS = (9223372036854775807, -9223372036854775808, -1, 4294967301)


@fact("vllm", "long seed 9223372036854775808 -> 400")
def _(served: Served) -> None:
    message = refused(chat, served, seed=9223372036854775808)
    assert "below 9223372036854775808" in message


@fact("vllm", *(f"seed in int64 {seed} accepted and repeats" for seed in SEEDS))
def _(served: Served, what: str) -> None:
    seed = int(what.split()[3])
    first, second = (chat(served, seed=seed, temperature=1.0) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content


@fact("vllm", "chat n=3 T=0.7 indices, content, differ")
def _(served: Served) -> None:
    found = chat(served, n=3, temperature=0.7, max_tokens=30, seed=1)
    assert [choice.index for choice in found.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in found.choices]
    assert all(texts) and len(set(texts)) > 1


@fact("vllm", "chat n=2 streaming both get content")
def _(served: Served) -> None:
    texts = ["", ""]
    for chunk in chat(served, n=2, stream=True, temperature=0.7, seed=1):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert all(texts)


@fact("vllm", "chat n=2 with seed")
def _(served: Served) -> None:
    found = [chat(served, n=2, seed=42, temperature=0.7, max_tokens=20) for _ in range(2)]
    texts = [[choice.message.content for choice in one.choices] for one in found]
    assert texts[0] == texts[1] and texts[0][0] != texts[0][1]


SAYING = "Here is a saying about apples. An apple a day, keeps"


@fact("vllm", "echo + continue_final_message", "chat echo")
def _(served: Served, what: str) -> None:
    messages = [*CHAT, {"role": "assistant", "content": SAYING}]
    ends = {"continue_final_message": True, "add_generation_prompt": False}
    for echo in (True, False):
        extra = {"echo": echo, **(ends if "continue" in what else {})}
        [choice] = chat(served, messages, extra=extra).choices
        assert choice.message.role == "assistant"
        assert choice.message.content.startswith(SAYING) == echo
        text = "".join(
            chunk.choices[0].delta.content or ""
            for chunk in chat(served, messages, extra=extra, stream=True)
        )
        assert text == choice.message.content


BODIES = {"bad": '"this is not valid json{{{"', "list": '["not","an","object"]', "cut": "{bad"}
TEXT, CHATS = "/v1/completions", "/v1/chat/completions"


@fact(
    "vllm",
    *(f'non-object body "this is not valid json{{{{{{" {path} -> 4xx' for path in (CHATS, TEXT)),
    f'non-object body ["not","an","object"] {TEXT} -> 4xx',
    *(f"non-object body {{bad {path} -> 4xx" for path in (CHATS, TEXT)),
)
def _(served: Served, what: str) -> None:
    path = what.split()[-3]
    body = what.removeprefix("non-object body ").removesuffix(f" {path} -> 4xx")
    assert body in BODIES.values()
    said = httpx.post(
        f"{served.url}{path}", content=body, headers={"content-type": "application/json"}
    )
    assert 400 <= said.status_code < 500 and said.json()["error"]["message"]


@fact("vllm", "/ping", "/load")
def _(served: Served, what: str) -> None:
    assert httpx.get(f"{served.url}{what}").status_code == 200
    if what == "/ping":
        assert httpx.post(f"{served.url}/ping").status_code == 200
    else:
        assert httpx.get(f"{served.url}/load").json()["server_load"] >= 0


@fact("vllm", "/tokenize /detokenize")
def _(served: Served) -> None:
    for special in (True, False):
        body = {"model": MODEL, "prompt": EGGS, "add_special_tokens": special}
        found = served.post("/tokenize", {**body, "return_token_strs": True}).json()
        assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
        assert found["max_model_len"] == 256
        text = served.post("/detokenize", {"model": MODEL, "tokens": found["tokens"]}).json()
        assert text["prompt"] == ("<s>" if special else "") + EGGS
    told = served.post("/tokenize", {"model": MODEL, "messages": CHAT}).json()["tokens"]
    assert told == chat(served, extra={"return_token_ids": True}).prompt_token_ids


@fact("vllm", "model not found -> NotFoundError")
def _(served: Served) -> None:
    with pytest.raises(openai.NotFoundError):
        complete(served, model="nobody")
