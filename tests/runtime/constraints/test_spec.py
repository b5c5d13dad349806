"""Forms of constraints, what each means to llguidance, and what a wrong one is told."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

import descant.runtime.constraints.compiled as compiling
from descant.runtime.constraints.compiled import compiled
from descant.runtime.constraints.limits import ConstraintError
from descant.runtime.constraints.spec import (
    Constraint,
    constraint_of,
    constraint_of_format,
    schema_text,
)
from descant.serve.worker.constraint_trial import ByteTokens

llguidance = pytest.importorskip("llguidance")


class Vocabulary:
    """A vocabulary of bytes, for which an answer has one spelling."""

    def __init__(self) -> None:
        self.tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(ByteTokens()))


BYTES = Vocabulary()


def fits(form: Any, text: str) -> bool:
    """Whether a text is a whole answer."""
    constraint = form if isinstance(form, Constraint) else constraint_of(form)
    assert constraint is not None
    matcher = compiled(constraint, BYTES)
    return all(map(matcher.consume_token, text.encode())) and matcher.is_accepting()


PERSON = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}},
          "required": ["b", "a"], "additionalProperties": False}  # fmt: skip
HARD = ["a", "ab", "naïve ☃", "two\nlines", 'q"uote\\/', "", "(x)*", "<|end|>"]
FITTING: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"json": PERSON}, ['{"b":1,"a":"x"}', '{\n  "b": 1, "a": ""}'], ['{"a":"x","b":1}', "{}"]),
    ({"json": json.dumps(PERSON)}, ['{"b":1,"a":"☃"}'], ['{"b":"1","a":"x"}']),
    ({"json": PERSON}, ['{"b":\n' + " " * 20 + '1,"a":""}'], ['{"b":\n' + " " * 21 + '1,"a":""}']),
    ({"json": PERSON}, ['{ "b" : 1, "a":\n\t"" }'], ['{"b":  1,"a":""}', '{"b":\n\n1,"a":""}']),
    ({"json": PERSON, "disable_any_whitespace": True}, ['{"b":1,"a":" "}'], ['{"b": 1,"a":""}']),
    ({"json": PERSON, "whitespace_pattern": " "}, ['{ "b": 1,"a":""}'], ['{"b":  1,"a":""}']),
    ({"json_object": True}, ["{}", '{"x":[null]}'], ["[]", "1"]),
    ({"regex": r'a/b\/c\d+\n"é'}, ['a/b/c12\n"é'], ["a/b/c", 'a/b/c12\n"éé']),
    ({"regex": "a\nb|"}, ["a\nb", ""], ["a"]),
    ({"choice": HARD}, HARD, ["b", "(x)", "aba"]),
    ({"choice": ("one",)}, ["one"], ["on", ""]),
    ({"grammar": 'start: "a"+ | %json {"type": "integer"}'}, ["aa", "-12"], ["", "a1"]),
]


@pytest.mark.parametrize(("form", "good", "bad"), FITTING)
def test_a_form_allows_what_it_says(form, good, bad) -> None:
    assert [text for text in good if not fits(form, text)] == []
    assert [text for text in bad if fits(form, text)] == []


WRONG: list[tuple[Any, str]] = [
    ("json", 'structured_outputs is .json.; write {"json": schema}'),
    ({"jsn": {}}, "has no key 'jsn'; did you mean json"),
    ({}, "here none is given"),
    ({"json": {}, "regex": "a"}, "json and regex are given"),
    ({"structural_tag": {}}, "structured_outputs.structural_tag .* write the whole answer"),
    ({"regex": "a", "whitespace_pattern": "b"}, "whitespace_pattern is for json, and this is reg"),
    ({"json": PERSON, "whitespace_pattern": "b", "disable_any_whitespace": True}, "one of them"),
    ({"json": "{"}, "structured_outputs.json is no JSON"),
    ({"json": "[1]"}, "a schema is a mapping"),
    ({"json": {"const": float("nan")}}, "cannot be written as JSON"),
    ({"json": {"const": "\ud800"}}, "cannot be written as JSON"),
    ({"json": {"const": object()}}, "cannot be written as JSON"),
    ({"choice": "abc"}, "give texts"),
    ({"choice": []}, "give texts"),
    ({"choice": ["a", 1]}, "give texts"),
    ({"regex": 3}, "structured_outputs.regex is 3; it is text"),
    ({"json_object": "yes"}, "it is true"),
    ({"grammar": 'root ::= "a"'}, "any_to_lark"),
    ({"grammar": "start: one\none: two"}, r"the grammar cannot be compiled: .*2\(.*two"),
    ({"regex": "(?=a)b"}, "look neither ahead nor back"),
    ({"regex": "a(b"}, "the regex cannot be compiled: unclosed group"),
    ({"json": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}}, "write anyOf"),
    ({"json": {"type": "array", "uniqueItems": True}}, "uniqueItems.*x-guidance"),
    ({"json": {"type": "string", "format": "rhyme"}}, "rhyme; write a pattern"),
    ({"json": {"type": "integer", "minimum": 3, "maximum": 2}}, "the schema"),
]


@pytest.mark.parametrize(("form", "message"), WRONG)
def test_a_wrong_form_is_told_what_to_write(form, message) -> None:
    with pytest.raises(ConstraintError) as wrong:
        fits(form, "")
    assert re.search(message, str(wrong.value)), str(wrong.value)
    assert len(str(wrong.value)) < 400


def test_openais_form() -> None:
    named = {"name": "x", "schema": {"type": "integer"}, "strict": True, "description": "a number"}
    schema = constraint_of_format({"type": "json_schema", "json_schema": named})
    assert schema == constraint_of({"json": {"type": "integer"}})
    assert constraint_of_format({"type": "json_object"}) == constraint_of({"json_object": True})
    assert constraint_of_format({"type": "text"}) is None is constraint_of_format(None)
    for wrong, message in (
        ({"type": "grammar"}, "text, json_object or json_schema"),
        ({"type": "json_object", "x": 1}, "has no key x"),
        ({"type": "text", "json_schema": named}, "has no key json_schema"),
        ({"type": "json_schema"}, "it has no schema"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schemas": {}}}, "it has no schema"),
        ({"type": "json_schema", "json_schema": {**named, "x": 1}}, "has no key x"),
    ):
        with pytest.raises(ConstraintError, match=message):
            constraint_of_format(wrong)


def test_objects_are_forms_and_models_are_schemas() -> None:
    """vLLM's ``StructuredOutputsParams`` is a dataclass; pydantic writes its models' schemas."""
    pydantic = pytest.importorskip("pydantic")

    @dataclasses.dataclass
    class Params:
        json: Any = None
        regex: str | None = None
        disable_any_whitespace: bool = False
        _backend: str | None = "xgrammar"

    assert constraint_of(Params(regex="a+")) == Constraint("regex", "a+")
    with pytest.raises(ConstraintError, match="none is given"):
        constraint_of(Params())
    Person = pydantic.create_model("Person", name=(str, ...), age=(int | None, None))
    assert json.loads(schema_text(Person)) == Person.model_json_schema()
    assert fits({"json": Person}, '{"name":"Ada","age":null}')
    assert not fits(Params(json=Person), '{"age":3}')
    assert fits({"json": pydantic.TypeAdapter(list[int])}, "[1, 2]")


def test_a_constraint_is_compiled_once_and_forgotten_with_its_vocabulary(monkeypatch) -> None:
    counted: list[Constraint] = []
    real = compiling.compile_constraint

    def counting(constraint: Constraint, tokenizer: Any) -> Any:
        counted.append(constraint)
        return real(constraint, tokenizer)

    monkeypatch.setattr(compiling, "compile_constraint", counting)
    monkeypatch.setattr(compiling, "COMPILED", 2)
    vocabulary = Vocabulary()
    first, second, third = (Constraint("regex", letter) for letter in "abc")
    one = compiled(first, vocabulary)
    assert one.consume_token(ord("a")) and one.is_accepting()
    assert not compiled(first, vocabulary).is_accepting()  # a fresh one
    for constraint in (second, first, third, first, second):
        compiled(constraint, vocabulary)
    assert counted == [first, second, third, second]
    kept = len(compiling._caches)
    del vocabulary
    assert len(compiling._caches) == kept - 1
