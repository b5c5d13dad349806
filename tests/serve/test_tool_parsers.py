"""Parsers of tool calls and thoughts: cut in any way, and against plain readings of whole texts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descant.inputs.runfile import RunFileError, validated
from descant.serve.parsers import (
    FORMATS,
    REASONING,
    MessageParser,
    named_call,
    reasoning,
    required_calls,
)
from descant.serve.parsers.chosen import known, with_marks
from descant.serve.parsers.events import Arguments, Call, Content, Thought

Message = tuple[str, str, list[tuple[str, str]]]  # thought, content, calls
GRAMMARS = {
    **{name: each.grammar for name, each in FORMATS.items()},
    "required": required_calls,
    "named": named_call("f"),
}
PIECES = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", ";"),
    *("</think>", '{"name": "f", "arguments": {"a": [1, {"b": "}"}]}}', '{"name": "g"', "}", "{"),
    *('"arguments"', ": ", '{"parameters": {"x": 1}, "name": "h"}', "[", "]", ",", "\n", " ", "é"),
    *('"a\\"b"', '{"name": "s", "arguments": "{\\"q\\": 2}"}', "text", "<", "1", "true", "[]"),
]
texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def read(parser: MessageParser, pieces: list[str]) -> Message:
    """What a client has in the end."""
    thought, content, calls = "", "", list[list[str]]()
    for event in [*(e for piece in pieces for e in parser.feed(piece)), *parser.end()]:
        match event:
            case Content(text):
                content += text
            case Thought(text):
                thought += text
            case Call(name):
                calls.append([name, ""])
            case Arguments(text):
                calls[-1][1] += text
    return thought, content, [(name, arguments) for name, arguments in calls]


def made(name: str | None, opened: bool | None) -> MessageParser:
    thought = None if opened is None else reasoning("<think>", "</think>", opened)
    return MessageParser(thought, None if name is None else GRAMMARS[name])


@given(texts, st.sampled_from([*GRAMMARS, None]), st.sampled_from([None, False, True]), st.data())
def test_it_does_not_matter_how_a_text_is_cut(text, name, opened, data) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(made(name, opened), [text])
    assert read(made(name, opened), pieces) == whole == read(made(name, opened), [*text])


keys = st.text(st.characters(codec="utf-8"), max_size=6)
plain = st.none() | st.booleans() | st.integers() | keys
values = st.recursive(plain, lambda x: st.lists(x) | st.dictionaries(keys, x), max_leaves=6)
arguments = st.dictionaries(keys, values, max_size=3)
calls = st.lists(st.tuples(st.sampled_from(["f", "get_weather"]), arguments), max_size=3)
said = st.text(st.characters(codec="utf-8", exclude_characters="<[{;,"), max_size=12)


def dumped(call: tuple[str, Any], key: str = "arguments", **how: Any) -> str:
    return json.dumps({"name": call[0], key: call[1]}, **how)


WRITERS = {
    "hermes": lambda text, each: text + "\n".join(
        f"<tool_call>\n{dumped(call, ensure_ascii=False)}\n</tool_call>" for call in each),
    "mistral": lambda text, each: text + (
        f"[TOOL_CALLS] [{', '.join(map(dumped, each))}]" if each else ""),
    "mistral, since its eleventh": lambda text, each: text + "".join(
        f"[TOOL_CALLS]{name}[ARGS]{json.dumps(given, indent=1)}" for name, given in each),
    "llama3_json": lambda text, each: "; ".join(
        dumped(call, "parameters") for call in each) if each else text,
    "required": lambda text, each: f"[{','.join(dumped(c, 'parameters', indent=2) for c in each)}]",
}  # fmt: skip


@given(said, calls, st.sampled_from([*WRITERS]), keys, st.booleans())
def test_what_a_model_writes_in_its_format_is_read(text, each, name, thought, opened) -> None:
    written = WRITERS[name](text, each)
    written = f"{'' if opened else '<think>'}{thought}</think>{written}"
    found = read(made(name.split(",")[0], opened), [written])
    assert found[0] == thought
    assert [(called, json.loads(given)) for called, given in found[2]] == each
    if not each:
        assert found[1] == ("" if name == "required" else text)
    elif name not in ("llama3_json", "required"):
        assert found[1].strip() == text.strip()


@pytest.mark.parametrize(("name", "text", "content", "expected"), [
    ("hermes", 'I look.\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n',
     "I look.", [("f", '{"a": 1}')]),
    ("hermes", "<tool_call>\nno JSON\n</tool_call>", "<tool_call>\nno JSON\n</tool_call>", []),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "x', "", [("f", '{"a": "x')]),
    ("hermes", "a < b, <tool", "a < b, <tool", []),
    ("hermes", '<tool_call>{"arguments": {}, "name": "f"}</tool_call> ok', " ok", [("f", "{}")]),
    ("llama3_json", '<|python_tag|>{"name": "f", "parameters": {}}', "", [("f", "{}")]),
    ("llama3_json", '{"answer": 42}', '{"answer": 42}', []),
    ("llama3_json", '  {"a": 1} is JSON', '  {"a": 1} is JSON', []),
    ("mistral", '[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]g[CALL_ID]123456789[ARGS]{}', "",
     [("f", '{"a": 1}'), ("g", "{}")]),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}', "", [("f", "{}")]),
    ("named", ' {"a": 1}', "", [("f", '{"a": 1}')]),
    ("named", "", "", []),
])  # fmt: skip
def test_texts_that_are_calls_and_texts_that_are_not(name, text, content, expected) -> None:
    thought, found, called = read(made(name, None), [text])
    assert (re.sub(r"\s+$", "", found), called) == (content, expected)
    assert thought == ""


@pytest.mark.parametrize(("opened", "text", "thought", "content"), [
    (True, "so\n</think>\n\nYes", "so\n", "\n\nYes"),
    (True, "no end", "no end", ""),
    (False, "\n<think>a</think>b<think>c", "a", "b<think>c"),
    (False, " no thought </think>", "", " no thought </think>"),
    (False, "<thin", "", "<thin"),
])  # fmt: skip
def test_a_thought_comes_first(opened, text, thought, content) -> None:
    assert read(made(None, opened), [text]) == (thought, content, [])


def test_options_name_what_a_run_file_does_not_say() -> None:
    run = validated({"formula": "a + b", "models": {"a": "x", "b": {
        "path": "y", "reasoning": {"start": "(", "end": ")"}}}}, "here")  # fmt: skip
    marked = with_marks(run, *REASONING["seed_oss"]).models
    assert [spec.reasoning.start for spec in marked.values()] == ["<seed:think>", "("]
    assert run.models["a"].reasoning is None
    assert known("hermes", "--tool-call-parser", FORMATS)
    assert not known(None, "--tool-call-parser", FORMATS)
    with pytest.raises(RunFileError, match="did you mean hermes"):
        known("hermess", "--tool-call-parser", FORMATS)
