"""``structured_outputs`` by every door of Python: the same answers; what does not go with it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import descant
from descant.api import declared
from descant.demo import models
from descant.runtime import Service

pytest.importorskip("llguidance")
PROMPTS = ["How are you?", "Hello", "Invent a word."]
FORMS: list[Any] = [{"regex": "[a-z]{3} [0-9]{2}"}, None, {"choice": ["yes", "no"]}]
SETTINGS: dict[str, Any] = {"max_new_tokens": 9, "temperature": 1.0, "seed": [1, 2, 3]}


@pytest.fixture(scope="module")
def decoder() -> Any:
    return descant.compile("base + 0.5*arm_help", models())


@pytest.fixture(scope="module")
def texts(decoder) -> list[str]:
    found = decoder.generate(PROMPTS, structured_outputs=FORMS, **SETTINGS)
    assert re.fullmatch(FORMS[0]["regex"], found[0].text) and found[0].finish_reason == "stop"
    assert found[2].text in ("yes", "no") and found[2].finish_reason == "stop"
    return [each.text for each in found]


def test_each_row_is_what_it_is_alone(decoder, texts) -> None:
    for prompt, form, seed, text in zip(PROMPTS, FORMS, SETTINGS["seed"], texts, strict=True):
        settings = {**SETTINGS, "seed": seed, "structured_outputs": form}
        assert decoder.generate(prompt, **settings)[0].text == text
        assert "".join(decoder.stream(prompt, **settings)) == text
        ids = [choice.id for choice in decoder.inspect(prompt, **settings).tokens]
        assert ids == decoder.generate(prompt, **settings)[0].token_ids
        assert decoder.generate(prompt, draft="base", **settings)[0].text == text
    plain = decoder.generate(PROMPTS[1], **{**SETTINGS, "seed": 2})
    assert plain[0].text == texts[1]


def test_one_form_is_for_all_rows(decoder, texts) -> None:
    found = decoder.generate(
        PROMPTS, structured_outputs=FORMS[0], num_return_sequences=2, **SETTINGS
    )
    assert found[0].text == texts[0] and len(found) == 6
    assert all(re.fullmatch(FORMS[0]["regex"], each.text) for each in found)
    done = dict(decoder.as_completed(PROMPTS, structured_outputs=FORMS, **SETTINGS))
    assert [done[i].text for i in range(3)] == texts


def test_the_field_is_the_stage_before_all_others(texts) -> None:
    stages = 'regex("[a-z]{3} [0-9]{2}") | top_k(5)'
    field = descant.compile("base + 0.5*arm_help | top_k(5)", models())
    stage = descant.compile(f"base + 0.5*arm_help | {stages}", models())
    settings = {**SETTINGS, "seed": 5}
    for prompt in PROMPTS:
        [one] = field.generate(prompt, structured_outputs=FORMS[0], **settings)
        assert one.token_ids == stage.generate(prompt, **settings)[0].token_ids


def test_transformers_generate_has_it(decoder) -> None:
    model = AutoModelForCausalLM.from_pretrained(models()["base"]["path"])
    ids = [decoder.tokenizer(prompt).input_ids for prompt in PROMPTS]
    for row, form in zip(ids, FORMS, strict=True):
        [found] = model.generate(
            torch.tensor([row]), custom_generate=decoder, max_new_tokens=9, structured_outputs=form
        )
        [expected] = decoder.generate([row], structured_outputs=form, max_new_tokens=9)
        assert found[len(row) :].tolist()[: len(expected.token_ids)] == expected.token_ids


def test_a_service_decodes_requests_of_either_kind_together(decoder, texts) -> None:
    service = Service(declared(models()), slots=4, max_model_len=128)
    served = service.decoder("base + 0.5*arm_help")
    answers: dict[int, str] = {}
    for i, (prompt, form) in enumerate(zip(PROMPTS, FORMS, strict=True)):
        settings = {**SETTINGS, "seed": SETTINGS["seed"][i], "structured_outputs": form}
        [request] = service.submit(served, prompt, **settings)
        answers[id(request)] = ""
    while service.busy:
        for answer in service.step():
            answers[id(answer.request)] += answer.take()
    assert list(answers.values()) == texts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structured_outputs": [{"regex": "a"}] * 2}, "has 2 values and there are 3 rows"),
        ({"structured_outputs": [None, None, {"rgx": "a"}]}, r"structured_outputs\[2\] has no key"),
        ({"structured_outputs": {"regex": "("}}, "the regex cannot be compiled"),
        ({"response_format": {"type": "json_object"}}, 'write structured_outputs={"json"'),
        ({"guided_choice": ["a"]}, 'write structured_outputs={"choice"'),
    ],
)
def test_what_is_wrong_is_named(decoder, options, message) -> None:
    with pytest.raises(descant.DescantError, match=message):
        decoder.generate(PROMPTS, **options)


def test_what_does_not_go_with_it() -> None:
    mixture = descant.compile("mix(0.5: base, 0.5: small)", models())
    with pytest.raises(descant.DescantError, match="leave one of them out"):
        mixture.generate("x", structured_outputs=FORMS[0], sample_components=True)
    tables = {"base": descant.TableModel.random(vocabulary=8, seed=1)}
    with pytest.raises(descant.DescantError, match="need a tokenizer"):
        descant.compile("base", tables).generate([1, 2], structured_outputs=FORMS[0])


def test_declared_schemas_are_mappings_text_or_models() -> None:
    pydantic = pytest.importorskip("pydantic")
    Mood = pydantic.RootModel[bool]
    for schema in ({"type": "boolean"}, '{"type": "boolean"}', Mood):
        decoder = descant.compile("base | json(mood)", models(), schemas={"mood": schema})
        assert decoder.generate("x", max_new_tokens=9)[0].text in ("true", "false")


def test_an_inspection_says_what_the_request_masked(decoder) -> None:
    shown = decoder.inspect(PROMPTS[2], structured_outputs=FORMS[2], max_new_tokens=9)
    first = shown.tokens[0]
    assert shown.parts[-1].name == "structured_outputs choice"
    assert first.numbers[-1] == {"tokens allowed": 2.0}
    kept = [each for each in first.candidates if each.removed_by is None]
    assert len(kept) == 2 and first.id in [each.id for each in kept]
    others = [each.removed_by for each in first.candidates if each not in kept]
    assert others and {*others} == {"structured_outputs choice"}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_thought_that_the_prompt_has_opened_is_free(temperature) -> None:
    """And it does not end the answer; what fits begins behind the mark, in every way to draw."""
    loaded = models()
    loaded["base"] = {**loaded["base"], "reasoning": {"start": "think:", "end": "."}}
    decoder = descant.compile("base + 0.5*arm_help", loaded)
    settings = {"max_new_tokens": 60, "temperature": temperature, "structured_outputs": FORMS[0]}
    said = [("How are you?", "think:"), ("think: or not", "think: so."), ("Hello", "I think:")]
    prompts = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": begun}]
        for asked, begun in said
    ]
    found = decoder.generate(prompts, seed=[5, 6, 7], **settings)
    drafted = decoder.generate(prompts, seed=[5, 6, 7], draft="prompt", draft_length=4, **settings)
    for prompt, row, other in zip(prompts, found, drafted, strict=True):
        thought, mark, fits = row.text.rpartition(".")
        assert re.fullmatch(FORMS[0]["regex"], fits) and row.finish_reason == "stop"
        closed = prompt[-1]["content"].endswith(".")
        assert (thought.count("."), mark) == (0, "" if closed else ".")
        assert row.text == other.text
    assert "".join(decoder.stream(prompts[0], seed=5, **settings)) == found[0].text
