"""Gemma 3, most of whose layers see the last 512 tokens: texts that are longer than that."""

from __future__ import annotations

import pytest
from plain_transformers import assert_best

WINDOW, NEW = 512, 14


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


def test_texts_beyond_the_window(gem, plain_gem) -> None:
    """One is longer, one grows longer: alone, and beside short ones, as transformers."""
    together = gem.generate([SHORT[0], LONG, SHORT[1], ACROSS], max_new_tokens=NEW)
    for prompt, beside in ((LONG, together[1]), (ACROSS, together[3])):
        [alone] = gem.generate([prompt], max_new_tokens=NEW)
        expected = plain_gem.generate(prompt, NEW)
        assert alone.token_ids == beside.token_ids == expected
        assert alone.text == plain_gem.text(expected)
    for prompt, one in ((SHORT[0], together[0]), (SHORT[1], together[2])):
        assert_best(plain_gem.along(plain_gem.ids(prompt), one.token_ids), one.token_ids)


def test_bos_is_there_once(gem, plain_gem) -> None:
    bos = plain_gem.tokenizer.bos_token_id
    [view] = gem.rendered(SHORT[0])
    assert view.ids == plain_gem.ids(SHORT[0])
    assert view.ids.count(bos) == 1 and view.ids[0] == bos


def test_a_chat_without_a_template_is_refused(gem) -> None:
    """A base model has none."""
    with pytest.raises(ValueError, match="template"):
        gem.generate([{"role": "user", "content": "Hello"}])
