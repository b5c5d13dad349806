"""What SGLang's tests assert."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest
from facts import CHAT, EGGS, MODEL, chat, complete, fact, refused
from servers import Served
from vllm_completions import tokenizer

GRID = """
False None True 1 False c
False None True 1 True cs
False None True 2 True cs
False None False 1 False s
False None False 1 True s
False None False 2 False cs
False None False 2 True s
False 5 True 1 False cs
False 5 True 1 True s
False 5 True 2 True cs
False 5 False 1 False c
False 5 False 1 True c
False 5 False 2 False cs
False 5 False 2 True s
True None True 1 False cs
True None True 1 True cs
True None True 2 False s
True None True 2 True s
True None False 1 False c
True None False 1 True cs
True None False 2 False cs
True None False 2 True cs
True 5 True 1 False s
True 5 True 1 True c
True 5 True 2 False s
True 5 True 2 True cs
True 5 False 1 False c
True 5 False 1 True cs
True 5 False 2 False s
True 5 False 2 True cs
"""  # echo, logprobs, a list of prompts, n, token ids; complete or as a stream


def _grid() -> list[str]:
    whats = []
    for line in GRID.split("\n")[1:-1]:
        echo, logprobs, many, n, ids, kinds = line.split()
        what = f"completion echo={echo} logprobs={logprobs} list={many} n={n} ids={ids}"
        whats += [("stream " if kind == "s" else "") + what for kind in kinds]
    return whats


@fact("sglang", *_grid())
def _(served: Served, what: str) -> None:
    field = dict(re.findall(r"(\w+)=(\w+)", what))
    echo, many, ids = (field[name] == "True" for name in ("echo", "list", "ids"))
    best, n = None if field["logprobs"] == "None" else int(field["logprobs"]), int(field["n"])
    prompt: Any = [421, 310, 316, 481] if ids else EGGS
    text = tokenizer(served).decode(prompt) if ids else prompt
    settings: dict[str, Any] = {"echo": echo, "logprobs": best, "n": n, "seed": 3}
    settings |= {"temperature": 1.0, "max_tokens": 8}
    prompts, count = [prompt, prompt] if many else prompt, (2 if many else 1) * n
    if what.startswith("stream"):
        options = {"include_usage": True}
        *chunks, last = complete(served, prompts, stream=True, stream_options=options, **settings)
        assert last.usage.prompt_tokens > 0 and last.usage.completion_tokens > 0
        first = set(range(count))
        for chunk in chunks:
            [choice] = chunk.choices
            begins = echo and choice.index in first
            if begins:
                assert choice.text.startswith(text)
            first.discard(choice.index)
            assert chunk.id and chunk.created
            if best is not None:
                assert isinstance(choice.logprobs.tokens[0], str)
                assert begins or 5 <= len(choice.logprobs.top_logprobs[0]) <= 6
        assert not first
        return
    found = complete(served, prompts, **settings)
    assert len(found.choices) == count and found.usage.prompt_tokens > 0
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    for choice in found.choices:
        assert choice.text.startswith(text) or not echo
        if best is not None:
            said = choice.logprobs
            assert isinstance(said.tokens[0], str) and 5 <= len(said.top_logprobs[1]) <= 6
            assert (said.token_logprobs[0] is None) == echo


@fact(
    "sglang", "chat logprobs=None n=1", "chat stream logprobs=None n=1", "chat logprobs=5 n=1",
    "chat stream logprobs=5 n=1", "chat logprobs=5 n=2", "chat stream logprobs=5 n=2",
)  # fmt: skip
def _(served: Served, what: str) -> None:
    n, with_logprobs = int(what[-1]), "logprobs=5" in what
    settings: dict[str, Any] = {"n": n, "temperature": 1.0, "seed": 3}
    if with_logprobs:
        settings |= {"logprobs": True, "top_logprobs": 5}
    if "stream" in what:
        found: list[list[Any]] = [[] for _ in range(n)]
        for chunk in chat(served, stream=True, **settings):
            found[chunk.choices[0].index].append(chunk.choices[0])
        for choices in found:
            assert choices[0].delta.role == "assistant"
            assert "".join(one.delta.content or "" for one in choices)
            if with_logprobs:
                assert all(len(one.logprobs.content[0].top_logprobs) == 5 for one in choices[1:])
        return
    complete_found = chat(served, **settings)
    assert len(complete_found.choices) == n and complete_found.usage.completion_tokens > 0
    for choice in complete_found.choices:
        assert choice.message.role == "assistant" and choice.message.content
        if with_logprobs:
            first = choice.logprobs.content[0].top_logprobs
            assert len(first) == 5 and isinstance(first[0].token, str)


@fact("sglang", "regex")
def _(served: Served) -> None:
    pattern = '\\{"name": "[a-z]{1,6}", "hens": [0-9]{1,3}\\}'
    extra = {"structured_outputs": {"regex": pattern}}
    text = chat(served, extra=extra, max_tokens=100, temperature=0).choices[0].message.content
    assert set(json.loads(text)) == {"name", "hens"}


@fact("sglang", "frequency_penalty=1.0")
def _(served: Served) -> None:
    assert chat(served, frequency_penalty=1.0, max_tokens=32).choices[0].message.content


@fact("sglang", "prefill continue_final_message")
def _(served: Served) -> None:
    prefill = "A good way to"
    messages = [*CHAT, {"role": "assistant", "content": prefill}]
    text = chat(served, messages, extra={"continue_final_message": True}).choices[0].message.content
    assert text and not text.startswith(prefill)


@fact("sglang", "model list max_model_len int")
def _(served: Served) -> None:
    for model in served.client().models.list():
        assert isinstance(model.max_model_len, int) and model.max_model_len > 0


@fact("sglang", "retrieve model; unknown -> NotFound")
def _(served: Served) -> None:
    found = served.client().models.retrieve(MODEL)
    assert (found.id, found.object) == (MODEL, "model")
    with pytest.raises(openai.NotFoundError):
        served.client().models.retrieve("nobody")


@fact("sglang", "retrieve model .root")
def _(served: Served) -> None:
    assert served.client().models.retrieve(MODEL).root == MODEL


@fact("sglang", "/v1/responses")
def _(served: Served) -> None:
    client = served.client()
    found = client.responses.create(
        model=MODEL, input=EGGS, temperature=0, max_output_tokens=5, store=True
    )
    assert (found.object, found.model, found.status) == ("response", MODEL, "incomplete")
    assert found.output_text == chat(served).choices[0].message.content
    assert found.usage.output_tokens == 5 and found.usage.total_tokens > 5
    events = [
        *client.responses.create(
            model=MODEL, input=CHAT, temperature=0, max_output_tokens=5, stream=True
        )
    ]
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    deltas = (event.delta for event in events if event.type == "response.output_text.delta")
    assert "".join(deltas) == found.output_text
    assert events[-1].response.output_text == found.output_text


@fact("sglang", "prompt longer than context -> 400 naming length")
def _(served: Served) -> None:
    long = [{"role": "user", "content": "hello " * 120}]
    message = refused(chat, served, long)
    assert re.search(r"prompt has \d+ tokens", message) and "256" in message
    assert re.search(r"prompt has \d+ tokens", refused(complete, served, "hello " * 2000))


@fact("sglang", "body too large -> 413")
def _(served: Served) -> None:
    said = served.post("/v1/completions", {"model": MODEL, "prompt": "x" * (1 << 21)})
    assert said.status_code == 413
