"""The text of an answer: stop strings wherever they come, and pieces that add up."""

from __future__ import annotations

import pytest
import torch
import vocabularies
from checkpoints import tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import StopStringCriteria

from descant.models.text.detokenizer import Detokenizer
from descant.runtime.requests.answer_text import AnswerText
from descant.runtime.requests.stop_strings import StopStrings

BROKEN = "\N{REPLACEMENT CHARACTER}"
KINDS = {
    "byte-level": tokenizer(),
    "byte-level-2": vocabularies.qwen_like(),
    "llama-2": vocabularies.llama_like(),
    "metaspace": vocabularies.llama_like(legacy=False),
    "unigram": vocabularies.unigram_like("abcdef"),
    "wordpiece": vocabularies.wordpiece_like("abcdef"),
    "suffixes": vocabularies.suffixed_like(),
    "words": vocabularies.words_like(),
    "tiktoken": vocabularies.tiktoken_like(),
}
DETOKENIZERS = {kind: Detokenizer(made) for kind, made in KINDS.items()}
LETTERS = st.text("ab", max_size=4)


@given(
    pieces=st.lists(st.tuples(LETTERS, st.booleans()), max_size=12),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3),
)
@settings(max_examples=500, deadline=None)
def test_stop_strings_are_found_as_in_the_text_so_far(pieces, stops) -> None:
    """With some pieces hidden: looked at, and no text."""
    found, text, visible = StopStrings(stops), "", [0]
    for piece, hidden in pieces:
        text += piece
        visible += [visible[-1] + (0 if hidden else i + 1) for i in range(len(piece))]
        position = found.add(piece, hidden)
        starts = [text.index(stop) for stop in stops if stop in text]
        assert position == (visible[min(starts)] if starts else None)
        if starts:
            return
        open_ = [i for i in range(len(text)) if any(stop.startswith(text[i:]) for stop in stops)]
        assert found.settled() == visible[min(open_, default=len(text))]


def read(kind: str, prompt: list[int], tokens: list[int], stops: list[str]) -> tuple[int, str]:
    """After how many tokens an answer stops, and its text; its pieces are checked."""
    content = AnswerText(DETOKENIZERS[kind], prompt, stops)
    pieces, number = [], 0
    for number in range(1, len(tokens) + 1):
        stopped = content.read(tokens[:number])
        pieces.append(content.take())
        if stopped:
            break
    content.end(tokens[:number])
    pieces.append(content.take())
    assert "".join(pieces) == content.text()
    return number, content.text()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_text_ends_before_its_first_stop_string(kind, data) -> None:
    made = KINDS[kind]
    plain = [i for i in range(len(made)) if i not in made.all_special_ids]
    tokens = data.draw(st.lists(st.sampled_from(plain), min_size=1, max_size=10))
    _, whole = read(kind, plain[:1], tokens, [])
    stops = []
    for _ in range(data.draw(st.integers(1, 2))):
        start = data.draw(st.integers(0, len(whole)))
        stops.append(whole[start : start + data.draw(st.integers(1, 5))] or "\0")
    stops = [stop for stop in stops if BROKEN not in stop] or ["\0"]
    number, text = read(kind, plain[:1], tokens, stops)
    _, so_far = read(kind, plain[:1], tokens[:number], [])
    starts = [so_far.index(stop) for stop in stops if stop in so_far]
    assert text == so_far[: min(starts, default=len(so_far))]
    _, before = read(kind, plain[:1], tokens[: number - 1], [])
    assert not any(stop in before for stop in stops)
    assert starts or number == len(tokens)


@pytest.mark.parametrize(
    "kind", ["byte-level", "byte-level-2", "llama-2", "metaspace", "wordpiece"]
)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_an_answer_ends_where_that_of_transformers_does(kind, data) -> None:
    made = KINDS[kind]
    special = sorted(set(made.all_special_ids) - {made.unk_token_id})
    plain = [i for i in range(len(made)) if i not in made.all_special_ids]
    [prompt] = made("!", add_special_tokens=False)["input_ids"][-1:]
    pieces = st.lists(st.sampled_from(plain), min_size=1, max_size=8)
    tokens = data.draw(pieces) + data.draw(st.sampled_from([[], special[:1], special[-1:]]))
    start = data.draw(st.integers(0, len(tokens) - 1))
    _, text = read(kind, [prompt], tokens[start:], [])
    stop = data.draw(st.sampled_from([text[:4] or "x", text[1:6] or "x", text[-3:] or "x"]))
    if tokens[-1] in special:
        stop = data.draw(st.sampled_from([stop, made.convert_ids_to_tokens(tokens[-1])]))
    if BROKEN in stop:
        return
    criteria = StopStringCriteria(made, [stop])
    ends = (
        number
        for number in range(1, len(tokens) + 1)
        if criteria(torch.tensor([[prompt, *tokens[:number]]]), None).item()
    )
    number, _ = read(kind, [prompt], tokens, [stop])
    assert number == next(ends, len(tokens))


@pytest.mark.parametrize("kind", ["byte-level", "llama-2", "unigram", "words"])
def test_a_special_token_may_be_a_stop_string_or_a_part_of_one(kind) -> None:
    made = KINDS[kind]
    words = made("the river", add_special_tokens=False)["input_ids"]
    end = made.eos_token_id
    _, text = read(kind, words, words, [])
    assert read(kind, words, [*words, end, *words], ["</s>"]) == (len(words) + 1, text)
    assert read(kind, words, [*words, end], ["er</s>"]) == (len(words) + 1, text[:-2])
    assert read(kind, words, [*words, end], ["x</s>", "\0"]) == (len(words) + 1, text)
    number, plain = read(kind, words, [*words, end, *words], [f"river{text[0]}"])
    if text[0] == " ":  # across a special token, which is no text
        assert (number, plain) == (len(words) + 2, text.removesuffix("river"))


def test_a_stop_string_with_the_first_space() -> None:
    made = KINDS["llama-2"]
    the, stone = (made(text, add_special_tokens=False)["input_ids"] for text in ("the", "stone"))
    assert read("llama-2", the, stone + stone, [" stone"])[1] == ""
    assert read("llama-2", the, stone + the, [" the"])[1] == " stone"


def test_a_copy_goes_its_own_way() -> None:
    made = KINDS["byte-level"]
    ids = made("the é→ stone", add_special_tokens=False)["input_ids"]
    for cut in range(len(ids)):
        first = AnswerText(DETOKENIZERS["byte-level"], ids[:1], ["one"])
        first.read(ids[:cut])
        taken = first.take()
        second = first.copied()
        assert second.read(ids)
        assert taken + second.take() == "the é→ st"
        assert not first.read(ids[:cut])
        first.end(ids[:cut])
        assert taken + first.take() == made.decode(ids[:cut])


def test_tokens_by_themselves() -> None:
    made = KINDS["llama-2"]
    names = ["▁the", "<0xE6>", "<0x97>", "<0xA5>", "</s>"]
    tokens = made.convert_tokens_to_ids(names)
    for prompt, first in ([tokens[0]], " the"), ([made.bos_token_id], "the"):
        content = AnswerText(DETOKENIZERS["llama-2"], prompt, [])
        content.end(tokens)
        shown = content.shown(tokens, 0)
        assert [text for text, _ in shown] == [first, *[BROKEN] * 3, "</s>"]
        assert [raw for _, raw in shown] == [first.encode(), b"\xe6", b"\x97", b"\xa5", b""]
        assert content.text() == f"{first}日"
