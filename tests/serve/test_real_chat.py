"""A real chat model behind the server: what clients get is what ``generate`` gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from servers import Served, listening

import descant
from descant.inputs.runfile import RunFile, read_run_file
from descant.serve.protocol.limits import Limits

HELLO = [{"role": "user", "content": "Say hello."}]
ITALY = [{"role": "user", "content": "What is the capital of Italy?"}]
ADA = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "My name is Ada."},
    {"role": "assistant", "content": "Hello Ada!"},
    {"role": "user", "content": "Write my name, and then 你好 é 🏴‍☠️."},
]
FLAGS = "🏴‍☠️ 你好 é 2024\n"


@pytest.fixture(scope="module")
def run(smollm2, tmp_path_factory) -> RunFile:
    file = tmp_path_factory.mktemp("chat") / "serve.yaml"
    file.write_text(
        f"formula: smol\nmodels:\n  smol: {{path: {smollm2}, dtype: float32}}\n", encoding="utf-8"
    )
    return read_run_file(file)


@pytest.fixture(scope="module")
def chat(run) -> Iterator[Served]:
    with listening(run, Limits(slots=4, max_model_len=512)) as server:
        yield server


@pytest.fixture(scope="module")
def decoder(run) -> Any:
    return descant.compile(run.formula, run.models)


def asked(messages: Any, tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "formula", "messages": messages, "max_tokens": tokens, "temperature": 0} | more


@pytest.mark.parametrize(("messages", "reason"), [(ITALY, "stop"), (ADA, "length")])
def test_a_chat_is_the_offline_one(chat, decoder, messages, reason) -> None:
    [expected] = decoder.generate([messages], max_new_tokens=12)
    found = chat.client().chat.completions.create(**asked(messages, 12))
    [choice] = found.choices
    assert choice.message.content == expected.text
    assert choice.finish_reason == reason
    assert found.usage.prompt_tokens == len(decoder.rendered(messages)[0].ids)
    assert found.usage.completion_tokens == len(expected.token_ids)


def test_a_streamed_chat_has_no_broken_characters(chat, decoder) -> None:
    messages = [{"role": "user", "content": f"Go on: {FLAGS * 4}"},
                {"role": "assistant", "content": FLAGS * 4},
                {"role": "user", "content": f"Go on: {FLAGS * 4}"}]  # fmt: skip
    [expected] = decoder.generate([messages], max_new_tokens=30)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(chat.client().chat.completions.create(**asked(messages, 30, **options)))
    pieces = [one.choices[0].delta.content or "" for one in chunks if one.choices]
    assert "".join(pieces) == expected.text and "🏴‍☠️" in expected.text
    assert len([piece for piece in pieces if piece]) > 5
    last = len(pieces) - 1 - next(i for i, piece in enumerate(reversed(pieces)) if piece)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces[:last])
    assert chunks[-1].usage.completion_tokens == len(expected.token_ids)


def test_stop_strings_of_a_chat(chat, decoder) -> None:
    text = decoder.generate([HELLO], max_new_tokens=16)[0].text
    for stop in ("lo", [" welcome", "zebra"], "re, wel"):
        found = chat.client().chat.completions.create(**asked(HELLO, 16, stop=stop)).choices[0]
        first = stop if isinstance(stop, str) else stop[0]
        assert found.message.content == text[: text.index(first)]
        assert found.finish_reason == "stop"


def test_sampled_chats_side_by_side_are_what_they_are_alone(chat, decoder) -> None:
    settings = {"max_new_tokens": 10, "temperature": 0.9, "num_return_sequences": 3}
    expected = decoder.generate([ADA], seed=11, **settings)
    found = chat.client().chat.completions.create(**asked(ADA, 10, seed=11, n=3, temperature=0.9))
    assert [one.message.content for one in found.choices] == [one.text for one in expected]
