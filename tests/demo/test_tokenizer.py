"""The demo tokenizer lays out a conversation as the chat template does."""

from __future__ import annotations

from typing import Any

import pytest

from descant.train.losses import IGNORED
from examples.demo_models.corpus import Pair, Reply, examples
from examples.demo_models.evaluation import pair_rows
from examples.demo_models.tokenizer import (
    encode_prompt,
    encode_response,
    prompt_text,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    drawn = examples(100, 0)
    return train_tokenizer([prompt_text(e.request) + e.reply.text for e in drawn], 400)


def test_pairs_share_their_prompt_and_end_with_eos(tokenizer: Any) -> None:
    drawn = Pair("How do I boil eggs?", Reply("Boil them.", 2, 1), Reply("Who knows.", 0, 1))
    prompt = encode_prompt(tokenizer, drawn.request)
    for row in pair_rows(tokenizer, [drawn]):
        assert list(row["input_ids"])[: len(prompt)] == prompt
        assert list(row["labels"])[: len(prompt)] == [IGNORED] * len(prompt)
        assert row["labels"][-1] == tokenizer.eos_token_id == 2


def test_the_tokenizer_adds_bos_and_never_eos(tokenizer: Any) -> None:
    ids = tokenizer("Boil the eggs.")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_id not in ids
    assert (tokenizer.pad_token_id, tokenizer.decode(ids[1:])) == (0, "Boil the eggs.")
    assert encode_response(tokenizer, "Boil the eggs.") == [*ids[1:], 2]


@pytest.mark.parametrize("system", ["", "Give detailed steps."])
def test_the_chat_template_is_the_template(tokenizer: Any, system: str) -> None:
    messages = [{"role": "user", "content": "How do I boil eggs?"}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<s>" + prompt_text("How do I boil eggs?", system)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == encode_prompt(tokenizer, "How do I boil eggs?", system)
