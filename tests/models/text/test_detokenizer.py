"""Text from tokens: what an answer adds to its prompt, for tokenizers of every kind."""

from __future__ import annotations

import pytest
import vocabularies
from checkpoints import tokenizer
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from descant.models.text.detokenizer import Detokenizer

BROKEN = "\N{REPLACEMENT CHARACTER}"
KINDS = {
    "byte-level": tokenizer(),
    "byte-level-2": vocabularies.qwen_like(),
    "llama-2": vocabularies.llama_like(),
    "metaspace": vocabularies.llama_like(legacy=False),
    "unigram": vocabularies.unigram_like(),
    "wordpiece": vocabularies.wordpiece_like(),
    "suffixes": vocabularies.suffixed_like(),
    "words": vocabularies.words_like(),
    "tiktoken": vocabularies.tiktoken_like(),
    "byt5": ByT5Tokenizer(),
}
WINDOWS = {"words", "tiktoken", "byt5"}
DETOKENIZERS = {kind: Detokenizer(made) for kind, made in KINDS.items()}
TEXTS = st.text(
    st.one_of(
        st.sampled_from(" thestonrivé日😀.,'!\n"), st.characters(exclude_categories=["Cs"])
    ), max_size=12,
)  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def added(kind: str, prompt: list[int], answer: list[int]) -> str:
    """What an answer adds to a prompt, by streams of bytes."""
    detokenizer = DETOKENIZERS[kind]
    stream = detokenizer.stream(prompt)
    steps = [stream.step(token) for token in answer]
    raw = b"".join((detokenizer.unfinished(prompt), *steps, stream.end()))
    return raw.decode("utf-8", "replace")


def decoded(made, ids: list[int]) -> str:
    return made.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def broken_run(kind: str, text: str) -> bool:
    """Whether U+FFFD stands for a whole run of byte tokens, as tokenizers decode broken ones."""
    return kind in ("llama-2", "metaspace") and BROKEN in text


@every_kind
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_tokens_after_any_prompt(kind, data) -> None:
    made = KINDS[kind]
    plain = [i for i in range(len(made)) if i not in made.all_special_ids]
    anything = st.lists(st.sampled_from(plain) | st.integers(0, len(made) - 1), max_size=9)
    prompt = [*data.draw(anything), data.draw(st.sampled_from(plain))]
    answer = data.draw(anything)
    start, end = decoded(made, prompt), decoded(made, prompt + answer)
    if start.endswith(BROKEN) or broken_run(kind, end):
        return  # below
    assert start + added(kind, prompt, answer) == end


@every_kind
@given(text=TEXTS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_text_cut_between_any_two_tokens(kind, text, data) -> None:
    made = KINDS[kind]
    ids = made(text, add_special_tokens=False)["input_ids"]
    cut = data.draw(st.integers(0, len(ids)))
    prompt, answer = ids[:cut], ids[cut:]
    assume(not prompt or not set(prompt) <= set(made.all_special_ids))  # unknown, and no text
    text = added(kind, [], prompt).rstrip(BROKEN) + added(kind, prompt, answer)
    assert text == decoded(made, ids)


@every_kind
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_after_a_special_token_an_answer_is_a_text_of_its_own(kind, data) -> None:
    made = KINDS[kind]
    marks = sorted(set(made.all_special_ids) - {made.unk_token_id})
    prompt = made("the stone")["input_ids"] + [data.draw(st.sampled_from(marks))] if marks else []
    answer = data.draw(st.lists(st.integers(0, len(made) - 1), max_size=9))
    expected = decoded(made, answer)
    if not broken_run(kind, expected):
        assert added(kind, prompt, answer) == expected


@pytest.mark.parametrize("kind", ["llama-2", "metaspace", "unigram", "wordpiece"])
def test_the_first_space(kind) -> None:
    made = KINDS[kind]
    the, stone = (made(text, add_special_tokens=False)["input_ids"] for text in ("the", "stone"))
    assert added(kind, the, stone) == " stone"
    assert added(kind, [], stone) == "stone"
    end = made.eos_token_id or made.sep_token_id
    assert added(kind, [*the, end], stone) == "stone"
    assert added(kind, [*the, made.unk_token_id], stone) == " stone"  # which stands for text


@every_kind
@pytest.mark.parametrize("text", [" stone", " the river", "  the"])
def test_a_text_that_continues_has_its_space_once(kind, text) -> None:
    made, detokenizer = KINDS[kind], DETOKENIZERS[kind]
    ids, prompt = detokenizer.encode(text), made("the", add_special_tokens=False)["input_ids"]
    one_space = kind in ("suffixes", "words", "wordpiece")
    assert added(kind, prompt, ids) == (f" {text.lstrip()}" if one_space else text)
    assert kind != "llama-2" or ids == made(text[1:])["input_ids"][1:]  # after the BOS


BYTES = ["byte-level", "byte-level-2", "llama-2", "metaspace", "tiktoken", "byt5"]


def of_bytes(kind: str, raw: bytes) -> list[int]:
    """A token per byte."""
    made = KINDS[kind]
    if kind in ("llama-2", "metaspace"):
        return [made.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in raw]
    if kind == "byt5":
        return [byte + 3 for byte in raw]
    if kind == "tiktoken":
        return [made.get_vocab()[bytes([byte])] for byte in raw]
    known = vocabularies.bytes_of(made)
    return [known.index(bytes([byte])) for byte in raw]


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("character", ["é", "→", "日", "😀"])
def test_every_split_of_a_character(kind, character) -> None:
    """Also between prompt and answer, which then has all of it."""
    before, after = of_bytes(kind, b"a"), of_bytes(kind, b"b")
    ids = of_bytes(kind, character.encode())
    for cut in range(len(ids)):
        prompt, answer = before + ids[:cut], ids[cut:] + after
        assert added(kind, prompt, answer) == f"{character}b"
    assert set(added(kind, before, ids[:-1])) == ({BROKEN} if kind != "byt5" else set())


@pytest.mark.parametrize("kind", BYTES[:4])
def test_a_broken_byte_breaks_nothing_else(kind) -> None:
    assert added(kind, [], of_bytes(kind, b"\xc3\xa9\xffb\xe2")) == f"é{BROKEN}b{BROKEN}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_costs_the_same_however_many_there_are(kind, monkeypatch) -> None:
    made, decoded_tokens = KINDS[kind], 0
    decode = made.decode

    def count(ids, **settings):
        nonlocal decoded_tokens
        decoded_tokens += len(ids)
        return decode(ids, **settings)

    monkeypatch.setattr(made, "decode", count)
    plain = [i for i in range(len(made)) if i not in made.all_special_ids]
    for ids in ([plain[i % len(plain)] for i in range(400)], plain[:1] * 400):
        added(kind, plain[:20], ids)
        assert decoded_tokens <= (60 * 400 if kind in WINDOWS else 0)
        decoded_tokens = 0
