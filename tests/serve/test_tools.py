"""Tools and thoughts from the openai client to the tokens and back.

A formula that ends in ``choice`` writes one text for sure, so that the server reads what a model
of each family would write; forced calls are the demo models' own.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import httpx
import openai
import pytest
import torch
import vocabularies
from servers import listening

import descant
from descant import TableModel
from descant.demo import models
from descant.inputs.runfile import RunFile, validated
from descant.models.text.thoughts import Thoughts
from descant.runtime.requests.answer import answer_to
from descant.serve.protocol.chats import ChatAnswers, ChatMarks, ChatQuery
from descant.serve.protocol.limits import Limits
from descant.serve.protocol.schema import ChatRequest
from descant.serve.worker.chats import are_hidden, marks_of_chat, opened

pytest.importorskip("llguidance")
HERMES = (  # as Qwen3's, and its switch
    "{%- if tools %}<|system|>\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<tool_call>"
    "{{ eos_token }}{% endif %}{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{\"name\": \"{{ call.function.name }}\", "
    "\"arguments\": {{ call.function.arguments | tojson }}}\n</tool_call>{% endfor %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)  # fmt: skip
OPENS = HERMES.replace("{% endif %}{% endif %}", "{% else %}<think>\n{% endif %}{% endif %}")
MISTRAL = "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[TOOL_CALLS]{% endif %}"
MISTRAL += "{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}"
LLAMA = '{% if tools %}{"name": function name, "parameters": {}}{{ tools | tojson }}{% endif %}'
LLAMA += "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
FORMULAS = {
    "qwen": ("base", '<think>I look.</think>\n\nWell.<tool_call>\n{"name": "weather", '
             '"arguments": {"city": "Oslo"}}\n</tool_call>\n<tool_call>\n{"name": "time", '
             '"arguments": {}}\n</tool_call>'),
    "deepseek": ("opens", "I look.</think>It is cold."),
    "mistral": ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Oslo"}}]'),
    "llama": ("llama", '{"name": "weather", "parameters": {"city": "Oslo"}}'),
    "text": ("base", "No call, <b>but</b> text"),
}  # fmt: skip
TOOLS: list[Any] = [
    {"type": "function", "function": {
        "name": "weather", "description": "The weather.", "strict": True, "parameters": {
            "type": "object", "additionalProperties": False, "required": ["city", "days"],
            "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"enum": [1, 2]}},
            "$defs": {"city": {"enum": ["Oslo", "Rome"]}}}}},
    {"type": "function", "function": {"name": "time"}},
]  # fmt: skip
ASKED: list[Any] = [{"role": "user", "content": "Is it cold in Oslo?"}]


@pytest.fixture(scope="module")
def run_file() -> RunFile:
    base = models()["base"]
    templates = {"base": HERMES, "opens": OPENS, "mistral": MISTRAL, "llama": LLAMA, "old": PLAIN}
    specs = {name: {**base, "template": template} for name, template in templates.items()}
    specs["dot"] = {**specs["opens"], "reasoning": {"start": "<think>", "end": "."}}
    formulas = {name: f"{model} | choice({json.dumps(text)})" for name, (model, text) in
                FORMULAS.items()}  # fmt: skip
    alone = {f"only_{name}": name for name in specs}
    watched = {"watched": "where(thinking > 0, opens, opens + 4*old)"}
    return validated({"formulas": {**formulas, **alone, **watched}, "models": specs}, "here")


@pytest.fixture(scope="module")
def served(run_file) -> Any:
    with listening(run_file, Limits(slots=4, max_model_len=700, max_tokens=300)) as server:
        yield server


@pytest.fixture(scope="module")
def client(served) -> openai.OpenAI:
    return served.client()


def ask(client: openai.OpenAI, model: str, **options: Any) -> Any:
    settings = {"messages": ASKED, "temperature": 0, **options}
    return client.chat.completions.create(model=model, **settings)


def called(message: Any) -> list[tuple[str, Any]]:
    return [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls or ()]


OSLO = ("weather", {"city": "Oslo"})


@pytest.mark.parametrize(("model", "thought", "content", "calls"), [
    ("qwen", "I look.", "\n\nWell.", [OSLO, ("time", {})]),
    ("mistral", None, None, [OSLO]),
    ("llama", None, None, [OSLO]),
    ("text", None, "No call, <b>but</b> text", []),
])  # fmt: skip
def test_calls_are_read_in_the_format_of_the_template(client, model, thought, content, calls):
    answer = ask(client, model, tools=TOOLS)
    [choice] = answer.choices
    assert getattr(choice.message, "reasoning_content", None) == thought
    assert choice.message.content == content and called(choice.message) == calls
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    ids = [call.id for call in choice.message.tool_calls or ()]
    assert len({*ids}) == len(ids) and all(len(each) == 9 for each in ids if model == "mistral")

    with client.chat.completions.stream(
        model=model, messages=ASKED, tools=TOOLS, temperature=0
    ) as stream:
        events = [*stream]
        final = stream.get_final_completion()
    said = final.choices[0].message
    assert (said.content or None) == content and called(said) == calls
    assert final.choices[0].finish_reason == choice.finish_reason
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [(each.name, json.loads(each.arguments)) for each in done] == calls
    thoughts = [
        getattr(event.chunk.choices[0].delta, "reasoning_content", None) or ""
        for event in events
        if event.type == "chunk" and event.chunk.choices
    ]
    assert "".join(thoughts) == (thought or "")


def test_a_call_comes_name_first_and_then_in_pieces(client) -> None:
    chunks = [*ask(client, "qwen", tools=TOOLS, stream=True)]
    deltas = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
    first = [each for each in deltas if each.id]
    assert [(each.index, each.type, each.function.name) for each in first] == [
        (0, "function", "weather"), (1, "function", "time")]  # fmt: skip
    assert len(deltas) > 4 and chunks[-1].choices[0].finish_reason == "tool_calls"
    one = ask(client, "qwen", tools=TOOLS, parallel_tool_calls=False)
    assert called(one.choices[0].message) == [OSLO]


def test_a_thought_that_the_template_opens_is_one(client, run_file) -> None:
    answer = ask(client, "deepseek")
    message, counts = answer.choices[0].message, answer.usage
    assert (message.reasoning_content, message.content) == ("I look.", "It is cold.")
    base = descant.compile("opens", run_file.models)
    thoughts: Thoughts = base.session.bound.thoughts
    ids = base.tokenizer("I look.</think>It is cold.", add_special_tokens=False)["input_ids"]
    assert 0 < counts.completion_tokens_details.reasoning_tokens < counts.completion_tokens
    assert abs(counts.completion_tokens_details.reasoning_tokens
               - thoughts.counted(ids, thoughts.inside)) <= 2  # fmt: skip
    without = ask(client, "deepseek", extra_body={"include_reasoning": False}).choices[0].message
    assert without.content == "It is cold." and not hasattr(without, "reasoning_content")
    off = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
    closed = ask(client, "deepseek", **off).choices[0].message
    assert closed.content == "I look.</think>It is cold."
    # What was answered is sent back as it is.
    back = [*ASKED, {**message.model_dump(exclude_none=True)}, *ASKED]
    assert ask(client, "deepseek", messages=back).choices[0].message.content == "It is cold."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["only_base", "only_dot"])
@pytest.mark.parametrize("choice", ["required", "weather"])
def test_a_forced_call_fits_its_schema(client, model, choice, stream) -> None:
    """Whatever the model would rather say; behind its thought, where the template opens one."""
    named = {"type": "function", "function": {"name": "weather"}}
    for seed in range(3):
        options = {
            "tools": TOOLS, "tool_choice": "required" if choice == "required" else named,
            "temperature": 1.0, "seed": seed, "max_tokens": 180, "parallel_tool_calls": False,
        }  # fmt: skip
        if stream:
            with client.chat.completions.stream(model=model, messages=ASKED, **options) as events:
                [answer] = events.until_done().get_final_completion().choices
        else:
            [answer] = ask(client, model, **options).choices
        [(name, arguments)] = called(answer.message)
        assert name == "weather" or choice == "required"
        if name == "weather":
            assert arguments["city"] in ("Oslo", "Rome") and arguments["days"] in (1, 2)
            assert len(arguments) == 2
        assert not answer.message.content
        assert answer.finish_reason == ("tool_calls" if choice == "required" else "stop")
        assert model == "only_base" or answer.message.reasoning_content is not None


def test_calls_and_their_results_go_to_the_template(client, run_file) -> None:
    message = ask(client, "qwen", tools=TOOLS).choices[0].message.model_dump(exclude_none=True)
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "cold"}
        for call in message["tool_calls"]
    ]
    chat = [*ASKED, message, *results]
    answer = ask(client, "only_base", messages=chat, tools=TOOLS, max_tokens=5,
                 extra_body={"return_token_ids": True})  # fmt: skip
    plain = json.loads(json.dumps(chat))
    offline = descant.compile("base", run_file.models)
    for call in plain[1]["tool_calls"]:
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    expected = offline.tokenizer.apply_chat_template(
        plain, tools=TOOLS, chat_template=HERMES, add_generation_prompt=True, return_dict=False
    )  # fmt: skip
    assert answer.model_extra["prompt_token_ids"] == expected


def test_a_formula_may_hold_outside_of_thoughts_alone(client, run_file) -> None:
    answer = ask(client, "watched", max_tokens=12, temperature=1.0, seed=3,
                 extra_body={"return_token_ids": True})  # fmt: skip
    offline = descant.compile(run_file.named["watched"], run_file.models)
    [row] = offline.generate(ASKED, max_new_tokens=12, temperature=1.0, seed=3)
    assert answer.choices[0].model_extra["token_ids"] == row.token_ids


@pytest.mark.parametrize(("model", "options", "said"), [
    ("only_old", {"tools": TOOLS}, "knows no tools"),
    ("only_old", {"tools": TOOLS, "tool_choice": "required"}, "knows no tools"),
    ("only_base", {"tool_choice": "required"}, "there are no tools"),
    ("only_base", {"tools": TOOLS * 65}, "at most 128"),
    ("only_base", {"functions": [TOOLS[0]["function"]]}, "write tools"),
    ("only_base", {"chat_template": "{{ 1 }}"}, "the run file"),
    ("only_base", {"reasoning_effort": "high"}, "reads reasoning_effort"),
    ("only_base", {"chat_template_kwargs": {"a b": 1}}, "is no name"),
    ("only_base", {"add_generation_prompt": True, "continue_final_message": True}, "both true"),
    ("only_base", {"tools": TOOLS, "tool_choice": "required",
                   "response_format": {"type": "json_object"}}, "leave one out"),
    ("only_base", {"tools": [{"type": "function", "function": {
        "name": "f", "parameters": {"type": "object", "properties": 3}}}],
        "tool_choice": "required"}, "properties must be an object"),
])  # fmt: skip
def test_what_cannot_be_is_a_400_that_names_it(served, model, options, said) -> None:
    body = {"model": model, "messages": ASKED, "max_tokens": 2, **options}
    answer = served.post("/v1/chat/completions", body)
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_what_asks_for_nothing_is_taken(served) -> None:
    neutral = {"tools": [], "tool_choice": "none", "parallel_tool_calls": True,
               "reasoning_effort": "medium", "include_reasoning": True, "functions": [],
               "add_generation_prompt": True, "chat_template_kwargs": {}}  # fmt: skip
    body = {"model": "only_old", "messages": ASKED, "max_tokens": 2, **neutral}
    answer: httpx.Response = served.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_the_text_behind_the_thought(client, stream) -> None:
    response = client.responses.create(
        model="deepseek", input="Cold?", temperature=0, stream=stream
    )
    if stream:
        events = [*response]
        deltas = [each.delta for each in events if each.type == "response.output_text.delta"]
        assert "".join(deltas) == "It is cold."
        response = events[-1].response
    assert response.output_text == "It is cold."
    assert response.usage.output_tokens_details.reasoning_tokens > 0


@pytest.mark.parametrize("special", [False, True])
def test_marks_that_are_special_tokens_are_told_too(special) -> None:
    """A table that writes a thought and a call, in the tokens of the marks."""
    own = copy.deepcopy(vocabularies.qwen_like())
    names = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    own.add_tokens(names, special_tokens=special)
    own.chat_template = HERMES
    ids = own("<think>so</think>\n<tool_call>")["input_ids"]
    ids += own('{"name": "f", "arguments": {}}')["input_ids"] + own("</tool_call>")["input_ids"]
    table = TableModel(torch.zeros(len(own), len(own)))
    decoder = descant.compile("base", {"base": {"model": table, "tokenizer": own}})
    bound = decoder.session.bound
    marks = marks_of_chat(bound, ChatQuery(True))
    assert marks == ChatMarks(("<think>", "</think>"), False, "hermes")
    assert are_hidden(bound, marks) == special
    [request] = decoder._builder.requests(
        ASKED, tools=TOOLS, max_new_tokens=200, skip_special_tokens=not are_hidden(bound, marks)
    )
    answer = answer_to(request, bound, 0.0)
    for token in ids:
        answer.add(token)
    body = ChatRequest.model_validate({"model": "m", "messages": ASKED, "tools": TOOLS})
    message = ChatAnswers(body, marks).message(0, answer.take())
    assert message["reasoning_content"] == "so" and message["content"] is None
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["f"]
    assert bound.thoughts.counted(ids, opened(bound, request)) == 2 + len(own("so")["input_ids"])
