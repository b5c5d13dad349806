"""``/v1/responses``, its typed events, and the routes about tokens and the server itself."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

EGGS = "How do I boil eggs?"
USER = {"role": "user", "content": EGGS}
EXCLUDED = "top_k(base, 1) + top_k(-1*base, 1)"  # the best token and the worst: none is both


@pytest.mark.parametrize("formula", ["arms", "best"])
def test_a_response_is_the_chats_answer(served, offline, formula) -> None:
    """Complete, in events, and by the client's helper; with the items that OpenAI's have."""
    client = served.client()
    settings: dict[str, Any] = {"model": formula, "input": EGGS, "temperature": 0.7}
    settings |= {"max_output_tokens": 100, "extra_body": {"seed": 3}}
    found = client.responses.create(**settings)
    [own] = offline(formula, [USER], max_new_tokens=100, temperature=0.7, seed=3)
    assert (found.output_text, found.status) == (own.text, "completed")
    assert found.usage.output_tokens == len(own.token_ids)
    events = [*client.responses.create(stream=True, **settings)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    ends = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds[-4:] == ends
    assert "".join(event.delta for event in events[4:-4]) == own.text
    item = events[-1].response.output[0]
    assert item == events[-2].item and item.id == events[2].item.id
    with client.responses.stream(**settings) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == own.text


def test_logprobs_are_those_of_a_chat(served) -> None:
    include: Any = ["message.output_text.logprobs"]
    settings = {"model": "arms", "temperature": 0, "top_logprobs": 2}
    client = served.client()
    found = client.responses.create(input=EGGS, max_output_tokens=6, include=include, **settings)
    chat = client.chat.completions.create(
        messages=[USER], max_tokens=6, logprobs=True, **settings
    )  # fmt: skip
    own = [one.model_dump() for one in chat.choices[0].logprobs.content]
    assert [one.model_dump() for one in found.output[0].content[0].logprobs] == own
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_messages_go_in_and_come_back(served, offline) -> None:
    client = served.client()
    found = client.responses.create(model="base", input=EGGS, max_output_tokens=4, temperature=0)
    more: Any = [USER, *(item.model_dump(exclude_none=True) for item in found.output)]
    again = client.responses.create(model="base", input=more, max_output_tokens=4, temperature=0)
    messages = [USER, {"role": "assistant", "content": found.output_text}]
    assert again.output_text == offline("base", messages, max_new_tokens=4)[0].text
    schema = {"type": "object", "properties": {"hens": {"enum": [1, 2]}}, "required": ["hens"],
              "additionalProperties": False}  # fmt: skip
    format: Any = {"type": "json_schema", "name": "yard", "schema": schema, "strict": True}
    found = client.responses.create(model="base", input=EGGS, text={"format": format})
    assert json.loads(found.output_text)["hens"] in (1, 2)
    assert found.text.format.schema_ == schema


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("previous_response_id", "resp_1", "nothing is stored here"),
        ("background", True, "nothing is stored here"),
        ("truncation", "auto", "nothing is cut silently"),
        ("text", {"format": {"type": "sound"}}, "format"),
        ("input", [], "at least 1"),
        ("input", [USER, *[{"role": "assistant", "content": "a"}] * 2], "make them one"),
        ("max_tokens", 5, "max_output_tokens"),
    ],
)
def test_what_is_not_done_is_said(served, field, value, why) -> None:
    said = served.post("/v1/responses", {"model": "base", "input": EGGS, field: value})
    assert said.status_code == 400 and why in said.json()["error"]["message"], said.text


def test_a_stream_that_fails_says_so_in_an_event(served) -> None:
    events = [*served.client().responses.create(model=EXCLUDED, input=EGGS, stream=True)]
    assert events[-1].type == "response.failed" and events[-1].response.status == "failed"
    assert "every token is excluded" in events[-1].response.error.message
    assert not any(event.type == "response.completed" for event in events)
    with pytest.raises(openai.UnprocessableEntityError):
        served.client().responses.create(model=EXCLUDED, input=EGGS)


def test_keys_guard_all_but_a_sign_of_life(strict) -> None:
    for path in ("/ping", "/version", "/health"):
        assert httpx.get(f"{strict.url}{path}").status_code == 200
    for path in ("/load", "/models", "/v1/models", "/metrics"):
        assert httpx.get(f"{strict.url}{path}").status_code == 401
    for path in ("/ping", "/tokenize", "/detokenize", "/v1/responses"):
        assert strict.post(path, {}).status_code == 401


def test_tokens_of_a_text_and_of_a_chat(served, offline) -> None:
    decoder = offline.decoder("arms")
    ids = served.post("/tokenize", {"model": "arms", "messages": [USER]}).json()["tokens"]
    assert ids == list(decoder.session.builder.requests([USER])[0].prompts[0])
    text = served.post("/detokenize", {"tokens": ids}).json()["prompt"]
    assert text == decoder.tokenizer.decode(ids)
    for path, body, status in (
        ("/tokenize", {"model": "nobody", "prompt": "x"}, 404),
        ("/tokenize", {"prompt": "x", "messages": [USER]}, 400),
        ("/tokenize", {"messages": [USER], "add_special_tokens": True}, 400),
        ("/detokenize", {"tokens": [10**6]}, 400),
    ):
        assert served.post(path, body).status_code == status, body
