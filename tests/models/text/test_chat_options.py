"""Variables, tools and endings of chat templates, against transformers' own rendering."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import vocabularies

import descant
from descant import ModelError, TableModel
from descant.errors import ArgumentError

THINKS = (  # as Qwen3's
    "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>"
    "<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ call.function.name }}\", "
    "\"arguments\": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CHAT = [{"role": "user", "content": "hello"}]
SAID = [*CHAT, {"role": "assistant", "content": "a b"}]
CALLED: list[dict[str, Any]] = [
    *CHAT,
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}]},
    {"role": "tool", "content": "3", "tool_call_id": "x"},
]  # fmt: skip


@pytest.fixture(scope="module")
def own() -> Any:
    made = copy.deepcopy(vocabularies.qwen_like())
    made.chat_template = THINKS
    return made


@pytest.fixture(scope="module")
def decoder(own) -> Any:
    table = TableModel(torch.zeros(len(own), len(own)))
    other = {"model": table, "tokenizer": own, "template": "{prompt}"}
    return descant.compile(
        "base + 0*other", {"base": {"model": table, "tokenizer": own}, "other": other}
    )


def read(decoder, prompt, **options) -> list[int]:
    [request] = decoder._builder.requests(prompt, **options)
    return list(request.prompts[0])


@pytest.mark.parametrize(("messages", "options", "theirs"), [
    (CHAT, {}, {"add_generation_prompt": True}),
    (CHAT, {"chat_template_kwargs": {"enable_thinking": False}},
     {"add_generation_prompt": True, "enable_thinking": False}),
    (CHAT, {"add_generation_prompt": False}, {}),
    (CHAT, {"continue_final_message": True}, {"continue_final_message": True}),
    (SAID, {}, {"continue_final_message": True}),
    (SAID, {"continue_final_message": False}, {"add_generation_prompt": True}),
    (SAID, {"add_generation_prompt": True}, {"add_generation_prompt": True}),
    (SAID, {"add_generation_prompt": False}, {}),
    (CHAT, {"tools": TOOLS}, {"add_generation_prompt": True, "tools": TOOLS}),
])  # fmt: skip
def test_a_prompt_is_what_transformers_renders(own, decoder, messages, options, theirs) -> None:
    expected = own.apply_chat_template(messages, return_dict=False, **theirs)
    assert read(decoder, messages, **options) == expected


def test_calls_have_arguments_that_are_objects(own, decoder) -> None:
    text = own.decode(read(decoder, CALLED, tools=TOOLS))
    assert '"arguments": {"a": [1]}}\n</tool_call>' in text
    assert "None" not in text and "tool\n3" in text
    wrong = copy.deepcopy(CALLED)
    wrong[1]["tool_calls"][0]["function"]["arguments"] = "[1]"
    with pytest.raises(ModelError, match="message 1 has a tool call whose arguments are no JSON"):
        read(decoder, wrong)


@pytest.mark.parametrize(("prompt", "options", "problem"), [
    (CHAT, {"add_generation_prompt": True, "continue_final_message": True}, "both true"),
    (CHAT, {"chat_template_kwargs": {"enable_thinkin": False}}, "enable_thinkin\n.*thinking"),
    (CHAT, {"chat_template_kwargs": {"chat_template": "{{ 1 }}"}}, "chat_template, which is no"),
    (CHAT, {"chat_template_kwargs": {"tools": []}}, "give tools by itself"),
    (CHAT, {"chat_template_kwargs": [1]}, "they are variables"),
    (CHAT, {"tools": {"name": "f"}}, "give a list"),
    (CHAT, {"add_generation_prompt": 1}, "true or false"),
    ("hello", {"tools": TOOLS}, "say how chat messages are written"),
    ([1, 2], {"tools": TOOLS}, "a prompt of token ids is read as it is"),
])  # fmt: skip
def test_what_nothing_would_read_is_refused(decoder, prompt, options, problem) -> None:
    with pytest.raises((ArgumentError, ModelError), match=f"(?s){problem}"):
        decoder.generate(prompt, max_new_tokens=1, **options)


def test_a_template_that_knows_no_tools_is_named(own) -> None:
    table = TableModel(torch.zeros(len(own), len(own)))
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    models = {"base": {"model": table, "tokenizer": own, "template": template}}
    with pytest.raises(ModelError, match="base"):
        descant.compile("base", models).generate(CHAT, tools=TOOLS)
