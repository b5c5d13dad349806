"""SmolLM2's text: pieces of a stream, characters of many tokens, digits, stop strings, ends."""

from __future__ import annotations

from typing import Any

import pytest

FLAGS = "🏴‍☠️ 你好 é 2024"
REPEATED = f"{FLAGS}\n" * 4  # greedily, it goes on so


@pytest.fixture(scope="module")
def repeated(smol) -> Any:
    """What the model says after it."""
    return smol("smol").generate(REPEATED, max_new_tokens=28)[0]


def test_a_stream_of_characters_of_many_tokens(smol, plain_smol, repeated) -> None:
    pieces = list(smol("smol").stream(REPEATED, max_new_tokens=28))
    assert "".join(pieces) == repeated.text == plain_smol.text(repeated.token_ids)
    assert FLAGS in repeated.text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces[:-1])  # the last is cut
    halves = [plain_smol.text([token]) for token in repeated.token_ids]
    assert sum("\N{REPLACEMENT CHARACTER}" in half for half in halves) > 10
    assert len(pieces) > 10


def test_an_answer_that_ends_within_a_character(smol, plain_smol, repeated) -> None:
    """Cut short there, the text has what transformers makes of the half; so has the stream."""
    texts = [plain_smol.text(repeated.token_ids[:n]) for n in range(28)]
    cut = next(n for n, text in enumerate(texts) if text.endswith("\N{REPLACEMENT CHARACTER}"))
    [found] = smol("smol").generate(REPEATED, max_new_tokens=cut)
    assert found.finish_reason == "length" and found.token_ids == repeated.token_ids[:cut]
    assert found.text == texts[cut]
    assert "".join(smol("smol").stream(REPEATED, max_new_tokens=cut)) == found.text


COUNT = "1995, 1996, 1997, 1998, 1999, 2000, 2001, 2002, 2003,"


@pytest.mark.parametrize(
    ("prompt", "stop", "text"),
    [
        (COUNT, "5, 20", " 2004, 200"),
        (COUNT, ["zebra", ", 2005"], " 2004"),
        (REPEATED, "好 é", "🏴‍☠️ 你"),
        (REPEATED, "☠️", "🏴‍"),
    ],
    ids=["half a year", "two", "characters", "half a flag"],
)
def test_stop_strings_of_many_tokens(smol, prompt, stop, text) -> None:
    decoder, settings = smol("smol"), {"max_new_tokens": 24, "stop_strings": stop}
    [found] = decoder.generate(prompt, **settings)
    assert (found.text, found.finish_reason) == (text, "stop")
    assert "".join(decoder.stream(prompt, **settings)) == text


def test_digits_are_tokens_of_their_own(smol, plain_smol) -> None:
    decoder = smol("smol")
    [found] = decoder.generate(COUNT, max_new_tokens=11)
    assert found.text == " 2004, 2005"
    names = plain_smol.tokenizer.convert_ids_to_tokens(found.token_ids)
    assert names == ["Ġ", *"2004", ",", "Ġ", *"2005"]
    ids = decoder.tokenizer("in 1234567 €", add_special_tokens=False)["input_ids"]
    assert decoder.tokenizer.convert_ids_to_tokens(ids)[2:9] == list("1234567")


@pytest.mark.parametrize(
    "text",
    [
        "In 1989, on 9 November: 3.14159 and ١٢٣.",
        "def f(x):\n\treturn {'a': [x**2 for x in range(10)]}  # ok\r\n",
        "🏴‍☠️🧑‍🚀 你好。世界 é e\u0301 ﷽ \u200bzero",
        "  two  spaces \n\n\n and lines\t\n ",
    ],
    ids=["digits", "code", "characters", "spaces"],
)
def test_text_is_what_it_was_after_a_round_trip(smol, text) -> None:
    """Bytes are kept: nothing is normalised, split or lost."""
    decoder = smol("smol")
    ids = decoder.tokenizer(text)["input_ids"]
    assert decoder.tokenizer.decode(ids) == text
    [view] = decoder.rendered(text)
    assert view.text == text and view.ids == ids


def test_the_end_of_a_turn_ends_an_answer(smol, plain_smol) -> None:
    chat = [{"role": "user", "content": "Say hello."}]
    [found] = smol("smol").generate([chat], max_new_tokens=40)
    assert found.finish_reason == "eos"
    assert plain_smol.tokenizer.convert_ids_to_tokens(found.token_ids)[-1] == "<|im_end|>"
    assert "<|" not in found.text and found.text == plain_smol.text(found.token_ids)
