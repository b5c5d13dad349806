"""Gemma 3, most of whose layers see the last 512 tokens: texts that are longer than that."""

from __future__ import annotations

import pytest
from plain_transformers import assert_best

WINDOW, NEW = 512, 18


def numbered(sentences: int) -> str:
    """A text that says no sentence twice, so that what lies before the window matters."""
    things = ("river", "stone", "house", "garden", "letter", "bridge", "clock")
    return "".join(
        f"Item {i}: the {things[i % 7]} of day {i * 37 % 101} is worth {i * i % 89} coins.\n"
        for i in range(sentences)
    )


LONG = "The secret word is 'marmalade'.\n" + numbered(36)
ACROSS = numbered(26)
SHORT = ["The capital of France is", "Once upon a time,"]


def test_the_texts_are_as_long_as_they_should_be(plain_gem) -> None:
    assert plain_gem.model.config.sliding_window == WINDOW
    assert 650 < len(plain_gem.ids(LONG)) < 800
    assert WINDOW - NEW < len(plain_gem.ids(ACROSS)) < WINDOW


@pytest.mark.parametrize("prompt", [LONG, ACROSS, SHORT[0]], ids=["beyond", "across", "within"])
def test_alone_as_transformers(gem, plain_gem, prompt) -> None:
    [found] = gem.generate([prompt], max_new_tokens=NEW)
    expected = plain_gem.generate(prompt, NEW)
    assert found.token_ids == expected
    assert found.text == plain_gem.text(expected)


def test_a_ragged_batch_across_the_window(gem, plain_gem) -> None:
    prompts = [SHORT[0], LONG, SHORT[1], ACROSS]
    found = gem.generate(prompts, max_new_tokens=NEW)
    for prompt, one in zip(prompts, found, strict=True):
        assert_best(plain_gem.along(plain_gem.ids(prompt), one.token_ids), one.token_ids)
    assert found[1].token_ids == plain_gem.generate(LONG, NEW)


def test_bos_is_there_once(gem, plain_gem) -> None:
    bos = plain_gem.tokenizer.bos_token_id
    [view] = gem.rendered(SHORT[0])
    assert view.ids == plain_gem.ids(SHORT[0])
    assert view.ids.count(bos) == 1 and view.ids[0] == bos
    [view] = gem.rendered(view.ids)
    assert view.ids.count(bos) == 1


def test_a_chat_without_a_template_is_refused(gem) -> None:
    """A base model has none."""
    with pytest.raises(ValueError, match="template"):
        gem.generate([{"role": "user", "content": "Hello"}])
