"""Arguments under other names: each is answered with what to write; numbers may come as arrays."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GenerationMixin

import descant
from descant.runtime.requests.hints import HINTS, OURS, SamplerFields

PROMPT = "the river"
THEIRS = {*GenerationConfig().to_dict(), *inspect.signature(GenerationMixin.generate).parameters}


@pytest.fixture(scope="module")
def decoder(compiled):
    return compiled("base + a*arm", params={"a": 0.5})


def refused(decoder, name: str) -> str:
    with pytest.raises(TypeError) as caught:
        decoder.generate(PROMPT, **{name: 2})
    return str(caught.value)


def test_ours_are_those_of_generate(decoder):
    named = [*inspect.signature(decoder.generate).parameters]
    assert {*named, *SamplerFields.__annotations__} - {"others"} == set(OURS)
    assert not set(OURS) & set(HINTS)


@pytest.mark.parametrize("name", sorted(({*THEIRS} | {*HINTS}) - {*OURS, "self", "kwargs"}))
def test_every_name_of_others_has_a_cure(decoder, name):
    said = refused(decoder, name)
    assert name in said and "known here" not in said
    if name not in HINTS:
        assert f"custom_generate=decoder, {name}=" in said


def test_parameters_and_misspelt_names_are_named(decoder):
    assert "give params={'a': 2}" in refused(decoder, "a")
    assert refused(decoder, "temprature").endswith("did you mean temperature?")
    assert "known here: add_generation_prompt, batch_size" in refused(decoder, "wings")


def test_what_is_called_the_same_does_the_same(compiled):
    """The names that a table says are ours do take what theirs would have been given."""
    alone = compiled("base")
    [long] = alone.generate(PROMPT, max_new_tokens=6)
    [cut] = alone.generate(PROMPT, max_new_tokens=6, eos_token_id=[long.token_ids[2]])
    assert cut.token_ids == long.token_ids[:3]
    assert len(alone.generate(PROMPT, max_new_tokens=2, num_return_sequences=3)) == 3


def test_numbers_come_as_arrays_too(decoder):
    asked = {"max_new_tokens": 4}
    plain = decoder.generate(PROMPT, params={"a": [0.0, 0.5, 1.0]}, **asked)
    for values in (np.linspace(0, 1, 3), torch.linspace(0, 1, 3), np.array([0, 0.5, 1], "float32")):
        found = decoder.generate(PROMPT, params={"a": values}, **asked)
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
        assert [one.params for one in found] == [one.params for one in plain]
    for value in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
        [one] = decoder.generate(PROMPT, params={"a": value}, **asked)
        assert one.token_ids == plain[1].token_ids
    drawn = decoder.generate([PROMPT] * 2, seed=[3, 4], temperature=[0.0, 1.0], **asked)
    again = decoder.generate(
        (prompt for prompt in [PROMPT] * 2), seed=np.array([3, 4]), temperature=np.array([0, 1.0]),
        **asked,
    )  # fmt: skip
    assert [one.token_ids for one in drawn] == [one.token_ids for one in again]
    [alone] = decoder.generate(PROMPT, seed=np.int64(4), temperature=np.float32(1), **asked)
    assert alone.token_ids == drawn[1].token_ids


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"params": {"a": "0.5"}}, ValueError, "a is '0.5'; a parameter is a number, or a list"),
        ({"seed": "7"}, ValueError, "seed is '7'; it is a number"),
        ({"seed": 1.5}, ValueError, "seed is 1.5; it is a whole number"),
        ({"params": {"a": [1, 2]}}, ValueError, "more: descant docs how-do-i#per-request-weights"),
    ],
)
def test_what_is_no_number_is_refused(decoder, settings, error, said):
    with pytest.raises(error, match=said):
        decoder.generate([PROMPT] * 3, **settings)


def test_text_is_no_completion_ids(decoder):
    with pytest.raises(ValueError, match="loglikelihood takes text"):
        decoder.scores(PROMPT, "goes on")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("torch_dtype", "it is called dtype here"),
        ("device_map", "an option of each model, beside its path: device_map: …"),
        ("load_in_4bit", "quantization: {quant_method: bitsandbytes"),
        ("parms", "did you mean params?"),
    ],
)
def test_compile_says_where_an_argument_belongs(named, said):
    with pytest.raises(TypeError, match=f"compile has no argument {named}") as caught:
        descant.compile("base", {"base": "/no/such/folder"}, **{named: 1})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("torch_dtype", "write dtype: …"),
        ("load_in_8bit", "write quantization: {quant_method: bitsandbytes"),
        ("pretrained_model_name_or_path", "write path: …"),
        ("attn_implementation", "leave it out"),
        ("pth", "did you mean path?"),
    ],
)
def test_a_declaration_in_other_words_is_answered(option, said):
    with pytest.raises(descant.ModelError, match=f"there is no option {option}; {said}"):
        descant.compile("base", {"base": {option: "x"}})


def test_models_have_names(zoo):
    with pytest.raises(descant.ModelError, match=r"models is a list.*\nwrite models="):
        descant.compile("base", [zoo.path("base")])
