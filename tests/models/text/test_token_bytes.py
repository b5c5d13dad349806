"""What tokens stand for: bytes of running text, for tokenizers of every kind."""

from __future__ import annotations

import pytest
import vocabularies
from checkpoints import tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from descant.models.text.token_bytes import token_bytes

LATIN = "the quick brown fox and the small stone"


def read(made, text: str) -> bytes:
    """The bytes that the tokens of a text stand for, special ones left out."""
    found = token_bytes(made, len(made))
    return b"".join(found.texts.get(token, b"") for token in made(text)["input_ids"])


BYTE_LEVEL = [tokenizer(), vocabularies.qwen_like()]
SENTENCES = [vocabularies.llama_like(), vocabularies.llama_like(legacy=False)]


@pytest.mark.parametrize("made", BYTE_LEVEL)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_byte_level_text_is_its_tokens(made, text) -> None:
    assert read(made, text) == text.encode()


@pytest.mark.parametrize("made", SENTENCES)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_sentencepiece_text_is_its_tokens_after_a_space(made, text) -> None:
    meant = text.replace("▁", " ")  # which the tokenizer cannot tell from a space
    assert read(made, text) in (f" {meant}".encode(), meant.encode())
    assert meant[0].isspace() or read(made, text).startswith(b" ")


@pytest.mark.parametrize(
    ("made", "kind", "expected"),
    [
        (tokenizer(), "ByteLevel", LATIN),
        (vocabularies.llama_like(), "SentencePiece", f" {LATIN}"),
        (vocabularies.unigram_like(), "SentencePiece", f" {LATIN}"),
        (vocabularies.wordpiece_like(), "WordPiece", f" {LATIN}"),
        (vocabularies.suffixed_like(), "BPEDecoder", f"{LATIN} "),
    ],
)
def test_every_kind(made, kind, expected) -> None:
    assert token_bytes(made, len(made)).kind == kind
    assert read(made, LATIN).decode() == expected


def test_punctuation_of_wordpiece_is_not_apart() -> None:
    assert read(vocabularies.wordpiece_like(), "the fox; the dog, one.").endswith(b" dog, one")


@pytest.mark.parametrize("made", [*BYTE_LEVEL, *SENTENCES])
def test_tokens_agree_with_the_tables_of_transformers(made) -> None:
    found = token_bytes(made, len(made))
    known = vocabularies.bytes_of(made)
    assert [found.texts.get(number, b"") for number in range(len(made))] == known


def test_special_tokens_are_no_text_and_added_ones_are() -> None:
    made = vocabularies.qwen_like()
    found, ids = token_bytes(made, len(made)), made.get_vocab()
    assert set(found.special) == {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    assert found.texts[ids["<tool_call>"]] == b"<tool_call>"
    assert found.texts[ids["  "]] == b"  "
    assert not set(found.special.values()) & set(found.texts)


def test_a_byte_token_comes_after_the_character() -> None:
    made = vocabularies.llama_like()
    found, ids = token_bytes(made, len(made)), made.get_vocab()
    assert found.texts[ids["<0x61>"]] == found.texts[ids["a"]] == b"a"
    assert found.ids[b"a"] == [ids["a"], ids["<0x61>"]]
    assert found.ids[b"\xe6"] == [ids["<0xE6>"]]


@pytest.mark.parametrize("made", [*BYTE_LEVEL, *SENTENCES])
@given(text=st.binary(min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_spelled(made, text) -> None:
    found = token_bytes(made, len(made))
    assert b"".join(found.texts[token] for token in found.encode(text)) == text


@pytest.mark.parametrize("made", [*BYTE_LEVEL, *SENTENCES])
@pytest.mark.parametrize("word", [" stones", "stone", " été", " quickly", "🦊"])
def test_a_word_is_spelled_as_the_tokenizer_would_in_a_text(made, word) -> None:
    whole, before = (
        made(f"a;{text}", add_special_tokens=False)["input_ids"] for text in (word, "")
    )
    assert whole[: len(before)] == before
    assert list(token_bytes(made, len(made)).encode(word.encode())) == whole[len(before) :]


def test_without_its_own_way_the_fewest_tokens_are_taken() -> None:
    class Plain:
        def get_vocab(self):
            return {"ab": 0, "a": 1, "bcd": 2, "cd": 3, "abc": 4}

    found = token_bytes(Plain(), 5)
    assert found.kind == ""
    assert found.encode(b"abcd") == (0, 3)
    assert found.encode(b"aabc") == (1, 4)
    assert found.encode(b"abce") == ()
    assert token_bytes(Plain(), 2).encode(b"abcd") == ()


def test_what_no_token_stands_for_is_not_spelled() -> None:
    made = vocabularies.unigram_like()
    found = token_bytes(made, len(made))
    assert found.encode("日".encode()) == ()
    assert found.encode(b" the") != ()


def test_tokens_that_are_bytes_are_taken_at_their_word() -> None:
    class Tiktoken:
        def get_vocab(self):
            return {b"a": 0, b" b": 1, b"\xf0": 2, "<|end|>": 3}

        all_special_ids = (3,)

    found = token_bytes(Tiktoken(), 4)
    assert found.texts == {0: b"a", 1: b" b", 2: b"\xf0"}
    assert found.special == {"<|end|>": 3}
