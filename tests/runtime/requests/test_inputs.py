"""What callers have in hand: read as what it is, or refused by its name, at every door."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import tokenizer as tiny
from transformers import BatchEncoding

import descant
from descant import ModelError
from descant.models import ids_of, prompt_of, prompts_of

TEXT = "the river"


@pytest.fixture(scope="module")
def decoder(compiled):
    return compiled("base + 0.5*arm")


@pytest.fixture(scope="module")
def ids(decoder) -> list[int]:
    return decoder.tokenizer(TEXT)["input_ids"]


def kinds(ids: list[int], tokenizer: Any) -> dict[str, Any]:
    """One prompt, in every form in which it may come."""
    return {
        "a tuple": tuple(ids),
        "numpy's integers": list(np.array(ids)),
        "an array": np.array(ids, dtype=np.int32),
        "a tensor": torch.tensor(ids),
        "tensors of one": [torch.tensor(token) for token in ids],
        "an array of one row": np.array([ids]),
        "a BatchEncoding": tokenizer(TEXT),
        "a BatchEncoding of tensors": tokenizer([TEXT], return_tensors="pt"),
        "a dictionary": {"input_ids": ids, "attention_mask": [1] * len(ids)},
        "padding on the left": {"input_ids": [0, *ids], "attention_mask": [0, *[1] * len(ids)]},
        "padding on the right": BatchEncoding(
            {"input_ids": [[*ids, 0]], "attention_mask": [[*[1] * len(ids), 0]]}
        ),
    }


def test_ids_are_read_in_every_form(decoder, ids) -> None:
    want = decoder.generate(ids, max_new_tokens=5)[0].token_ids
    for name, prompt in kinds(ids, decoder.tokenizer).items():
        [found] = decoder.generate(prompt, max_new_tokens=5)
        assert (found.prompt, found.token_ids) == (ids, want), name
        for count in (1, 2):
            if name != "an array of one row":
                many = decoder.generate([prompt] * count, max_new_tokens=5)
                assert [one.token_ids for one in many] == [want] * count, name
                assert decoder.rendered(prompt)[0].ids == ids, name
        assert "".join(decoder.stream(prompt, max_new_tokens=5)) == found.text, name
        [likelihood] = decoder.loglikelihood(prompt, [want])
        assert likelihood.is_greedy, name


def test_a_batch_is_as_many_prompts(decoder) -> None:
    texts = [TEXT, "the sea and the river"]
    batch = decoder.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    alone = [decoder.generate(text, max_new_tokens=4)[0].token_ids for text in texts]
    found = decoder.generate(batch, max_new_tokens=4)
    assert [one.token_ids for one in found] == alone
    generator = (text for text in texts)
    assert [one.token_ids for one in decoder.generate(generator, max_new_tokens=4)] == alone


def test_completions_are_read_like_prompts(decoder, ids) -> None:
    [want] = decoder.loglikelihood(TEXT, [ids])
    for name, given in kinds(ids, decoder.tokenizer).items():
        if name != "an array of one row":
            assert decoder.loglikelihood(TEXT, [given])[0].logprobs == want.logprobs, name
            assert decoder.scores(TEXT, given).shape[0] == len(ids) + 1, name


REFUSED = {  # what, and what the message names
    "bytes": (b"How", r"the prompt is b'How' \(bytes\)"),
    "a bytearray": (bytearray(b"How"), r"\(bytearray\)"),
    "truth values": ([True, False], r"item 0 of the prompt is True \(bool\)"),
    "numpy's truth values": (np.array([True]), r"True \(bool\)"),
    "fractions": ([1.0, 2.5], r"item 0 of the prompt is 1.0 \(float\), and a token id is an int"),
    "a tensor of fractions": (torch.tensor([1.0]), r"\(float\)"),
    "text among ids": ([5, "a"], r"item 1 of the prompt is 'a' \(str\)"),
    "nothing": (None, "the prompt is None"),
    "nothing in a list": ([None], "the prompt is None"),
    "a set": ({5, 6}, r"\(set\)"),
    "a path": (Path("a.txt"), r"\(PosixPath\)"),
    "one message": ({"role": "user", "content": "Hi"}, "the prompt is one message"),
    "another mapping": ({"text": "Hi"}, "a mapping without input_ids; it has text"),
    "an image": ({"input_ids": [5], "pixel_values": [0]}, "has pixel_values besides its input_ids"),
    "a mask of others": ({"input_ids": [5], "attention_mask": [1, 1]}, "another shape"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_only_looks_like_a_prompt_is_refused_by_name(decoder, kind) -> None:
    prompt, message = REFUSED[kind]
    doors = (
        lambda: decoder.generate(prompt),
        lambda: decoder.generate([TEXT, prompt]),
        lambda: next(decoder.stream(prompt)),
        lambda: decoder.rendered(prompt),
        lambda: decoder.scores(prompt, [5]),
        lambda: decoder.loglikelihood([TEXT, prompt], [[5], [5]]),
        lambda: decoder.inspect(prompt, max_new_tokens=1),
        lambda: prompt_of(prompt),
    )
    for door in doors:
        with pytest.raises(ModelError, match=message):
            door()


def test_completions_are_refused_by_name(decoder) -> None:
    for given, message in (
        ([True], "item 0 of the completion is True"),
        ([1.9], r"item 0 of the completion is 1.9 \(float\)"),
        (b"ab", r"the completion is b'ab' \(bytes\)"),
    ):
        for door in (
            lambda given: decoder.loglikelihood(TEXT, [given]),
            lambda given: decoder.scores(TEXT, given),
            lambda given: decoder.inspect(TEXT, token_ids=given),
        ):
            with pytest.raises(ModelError, match=message):
                door(given)


def test_kinds_without_models() -> None:
    chat = [{"role": "user", "content": "Hi"}]
    assert (
        prompts_of([]) == [] and prompts_of("a") == ["a"] and prompts_of(["a", [5]]) == ["a", [5]]
    )
    assert prompts_of(chat) == [chat] and prompts_of([chat, chat]) == [chat, chat]
    assert prompts_of(np.array([[5, 6], [7, 8]])) == [[5, 6], [7, 8]]
    assert prompts_of(range(3)) == [[0, 1, 2]] and ids_of((5, np.int8(6)), "prompt") == [5, 6]
    assert all(type(token) is int for token in prompt_of(np.array([5, 6])))


EOS = {
    "text": ("</s>", r"eos_token_id is '</s>', .*convert_tokens_to_ids\('</s>'\)"),
    "text in a list": (["</s>"], "eos_token_id is '</s>'"),
    "nothing in a list": ([None], "eos_token_id is None; it is a whole number"),
    "beyond the vocabulary": (99999, "eos_token_id is 99999, and the vocabulary has 300 tokens"),
    "below 0": (-1, "eos_token_id is -1"),
    "a truth value": (True, "eos_token_id is True"),
    "a fraction": (2.0, "eos_token_id is 2.0"),
}


@pytest.mark.parametrize("kind", EOS)
def test_ends_that_are_no_ids_are_refused(decoder, kind) -> None:
    value, message = EOS[kind]
    with pytest.raises(ValueError, match=message):
        decoder.generate(TEXT, eos_token_id=value)


def test_ends_are_read_in_every_form(decoder) -> None:
    [long] = decoder.generate(TEXT, max_new_tokens=6, eos_token_id=[])
    end = long.token_ids[2]
    for value in (end, [end], (end,), np.int64(end), torch.tensor(end), torch.tensor([end]), {end}):
        [found] = decoder.generate(TEXT, max_new_tokens=6, eos_token_id=value)
        assert found.token_ids == long.token_ids[: long.token_ids.index(end) + 1]
        assert found.finish_reason == "eos"


@pytest.mark.parametrize("temperature", [1e-5 / 2, 1.2e-38, 1e-40, 1e-45, 5e-324])
def test_a_temperature_that_float32_cannot_divide_by_is_0(decoder, temperature) -> None:
    [best] = decoder.generate(TEXT, max_new_tokens=6, temperature=0.0)
    for seed in range(3):
        [found] = decoder.generate(
            TEXT, max_new_tokens=6, temperature=temperature, seed=seed, logprobs=True,
            logprobs_mode="processed_logprobs",
        )  # fmt: skip
        assert found.token_ids == best.token_ids and found.logprobs == [0.0] * 6


@pytest.mark.parametrize(
    "formula",
    ["base | temperature(t)", "temp(base, t) + arm", "(base | temperature(t)) + arm",
     "base | repetition_penalty(t)"],
)  # fmt: skip
def test_a_formula_divides_by_nothing_smaller_either(compiled, formula) -> None:
    decoder = compiled(formula, params={"t": 1.0})
    decoder.generate(TEXT, max_new_tokens=2, params={"t": 1e-5}, logprobs=True)
    for least in (9e-6, 1e-38, 1e-45):
        message = re.escape(f"must be at least 1e-05, not {least:g}")
        with pytest.raises(descant.FormulaError, match=message):
            decoder.generate(TEXT, params={"t": least})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_new_tokens": 5.5}, "max_new_tokens is 5.5; it is a whole number"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"max_new_tokens": None}, "max_new_tokens is None"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0; it must be at least 1"),
        ({"num_return_sequences": 1.5}, "num_return_sequences is 1.5"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"seed": True}, "seed is True"),
        ({"temperature": True}, "temperature is True"),
        ({"stop_strings": 5}, "stop_strings is 5; give a text"),
        ({"stop_strings": b"end"}, "stop_strings is b'end'; give a text"),
        ({"stop_strings": ["a", 5]}, "stop_strings has 5; a stop string is text"),
        ({"logprobs": 5}, "logprobs is 5, .* write logprobs=True, top_logprobs=5"),
        ({"top_logprobs": 2}, "top_logprobs come with logprobs=True"),
        ({"logprobs": True, "top_logprobs": 301}, "top_logprobs is 301; it is 0 to 300"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs is -1"),
        ({"sample_components": 1}, "sample_components is 1, and it is true or false"),
        ({"logprobs_mode": "raw_logits"}, "logprobs_mode is 'raw_logits'; .*decoder.scores"),
        ({"logprobs_mode": "raw"}, "logprobs_mode is 'raw'; it is raw_logprobs or processed"),
    ],
)
def test_numbers_of_a_call_are_what_they_are_said_to_be(decoder, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        decoder.generate(TEXT, **arguments)


def test_whole_numbers_may_be_numpys(decoder) -> None:
    settings = {"max_new_tokens": np.int64(3), "num_return_sequences": torch.tensor(2)}
    assert [len(one.token_ids) for one in decoder.generate(TEXT, **settings)] == [3, 3]


def longer(name: str) -> Any:
    """A tokenizer with one token more than the embeddings of the models here have rows."""
    tokenizer = copy.deepcopy(tiny())
    tokenizer.add_tokens([name])
    return tokenizer


WORD = "<extra>"
NAMED = rf"'{WORD}', which is the token 300 of its tokenizer, and its embeddings have 300 rows"


@pytest.fixture(scope="module")
def extended(zoo, compiled):
    """A formula whose tokenizer has a token that has no embedding."""
    spec = {"path": zoo.path("base"), "tokenizer": longer(WORD), "dtype": "float32"}
    return descant.compile("base", {"base": spec})


def test_a_token_without_an_embedding_is_refused_at_every_door(extended) -> None:
    assert "1 tokens of its tokenizer have no row" in str(extended.plan)
    text = f"the {WORD} river"
    chat = [{"role": "user", "content": text}]
    for door in (
        lambda: extended.generate(text),
        lambda: extended.generate(["the river", text]),
        lambda: next(extended.stream(text)),
        lambda: extended.rendered(text),
        lambda: extended.scores(text, [5]),
        lambda: extended.loglikelihood(text, ["a"]),
        lambda: extended.inspect(text, max_new_tokens=1),
    ):
        with pytest.raises(ModelError, match=f"base is to read {NAMED}"):
            door()
    with pytest.raises(ValueError, match=rf"the completion has the token id 300 \('{WORD}'\)"):
        extended.loglikelihood("the river", [text])
    with pytest.raises(ValueError, match="the prompt has the token id 300"):
        extended.generate([5, 300])
    assert chat and len(extended.generate("the river", max_new_tokens=2)[0].token_ids) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"system": f"Be {WORD}."}, NAMED),
        ({"prefix": f"{WORD} "}, NAMED),
        (
            {"prefix": [5, 4000]},
            "arm is to read the token id 4000, and its embeddings have 300 rows",
        ),
        ({"template": WORD + "{prompt}"}, NAMED),
    ],
)
def test_what_a_spec_adds_is_checked_too(zoo, spec, message) -> None:
    """Of every term: the first reads the prompt alone."""
    own = {"path": zoo.path("base"), "tokenizer": longer(WORD), "dtype": "float32"}
    decoder = descant.compile("base + arm", {"base": own, "arm": {**own, **spec}})
    with pytest.raises(ModelError, match=message):
        decoder.generate("the river", max_new_tokens=2)


def test_a_reward_that_reads_text_has_embeddings_too(zoo) -> None:
    models = {
        "base": {"path": zoo.path("base"), "dtype": "float32"},
        "rm": {
            "path": zoo.path("rm"),
            "tokenizer": longer(WORD),
            "read": "text",
            "dtype": "float32",
        },
    }
    decoder = descant.compile("base | rerank(rm, k=3, w=1)", models)
    assert "rm: 1 tokens of its tokenizer have no row" in str(decoder.plan)
    message = f"rm is to read {NAMED}"
    with pytest.raises(ModelError, match=message):
        decoder.generate(f"the {WORD} river", max_new_tokens=2)
    with pytest.raises(ModelError, match=message):
        descant.score("rm", ["the river"], [f"runs {WORD}"], models=models)
    assert len(decoder.generate("the river", max_new_tokens=2)[0].token_ids) == 2
