"""SmolLM2: raw text and chats, token for token as transformers alone."""

from __future__ import annotations

from typing import Any

import gguf
import pytest
import torch
from plain_transformers import assert_best
from transformers import AutoModelForCausalLM

from descant.models.checkpoint.gguf import parsed_once

NEW = 14


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


TEXTS = [
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Dear Ms. Müller,\n\nthank you for your letter of 24 May. "
    + "We have read it with care. " * 24,
]
CHATS: list[list[dict[str, str]]] = [
    [user("What is the capital of Italy?")],
    [{"role": "system", "content": "Answer in one word."}, user("What colour is the sky?")],
    [
        user("My name is Ada."),
        {"role": "assistant", "content": "Hello Ada! How can I help you?"},
        user("What is my name?"),
    ],
    [user("Write the numbers from 95 to 105, please: 95, 96")],
]
PROMPTS: list[Any] = [*TEXTS, *CHATS]


def test_the_weights_are_those_of_the_file(smollm2, plain_smol) -> None:
    """Bit for bit: by transformers' own reading, and by the format's own package."""
    folder, _, file = smollm2.rpartition("/")
    with parsed_once():
        direct = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
        packed = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2).tensors}
    kept = plain_smol.model.state_dict()
    assert kept.keys() == direct.state_dict().keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in direct.state_dict().items())
    for name, other in {
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
        "token_embd.weight": "model.embed_tokens.weight",
    }.items():
        tensor = packed[name]
        expected = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(kept[other], expected)


def test_prompts_of_many_lengths(plain_smol) -> None:
    lengths = [len(plain_smol.ids(prompt)) for prompt in PROMPTS]
    assert min(lengths) == 5 and max(lengths) > 180 and len(set(lengths)) == len(lengths)


@pytest.mark.parametrize("number", [0, 1, 3, 4, 5])
def test_alone_as_transformers(smol, plain_smol, number) -> None:
    [found] = smol("smol").generate([PROMPTS[number]], max_new_tokens=NEW)
    expected = plain_smol.generate(PROMPTS[number], NEW)
    assert found.token_ids == expected
    assert found.text == plain_smol.text(expected)


def test_in_a_ragged_batch_as_transformers(smol, plain_smol) -> None:
    found = smol("smol").generate(PROMPTS, max_new_tokens=NEW, batch_size=4)
    for prompt, one in zip(PROMPTS, found, strict=True):
        assert_best(plain_smol.along(plain_smol.ids(prompt), one.token_ids), one.token_ids)
    assert found[3].finish_reason == "eos" and found[3].token_ids[-1] == 2


def test_a_seeded_row_is_what_it_is_alone(smol) -> None:
    settings = {"max_new_tokens": 10, "temperature": 1.0}
    prompts, seeds = [CHATS[0], CHATS[0], TEXTS[0], CHATS[2]], [4, 5, 4, 6]
    found = smol("smol").generate(prompts, seed=seeds, **settings)
    for number in (1, 2):
        [alone] = smol("smol").generate([prompts[number]], seed=seeds[number], **settings)
        assert alone.token_ids == found[number].token_ids
    assert found[0].token_ids != found[1].token_ids
