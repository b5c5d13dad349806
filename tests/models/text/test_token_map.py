"""Which token of one vocabulary is which of another: every pair of vocabularies that users have."""

from __future__ import annotations

import pytest
import vocabularies
from checkpoints import renumbered, tokenizer, turned
from transformers import PreTrainedTokenizerFast

from descant.models.text.token_map import Vocabulary, end_of_turn, token_map

LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} "
    "[/INST]{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] }}<|eot_id|>{% endfor %}"
)
LLAMA = vocabularies.llama_like(chat_template=LLAMA2)
QWEN = vocabularies.qwen_like(chat=CHATML)


def side(made, *ends: str) -> Vocabulary:
    return Vocabulary(made, len(made), frozenset(made.convert_tokens_to_ids(end) for end in ends))


def copied(made: PreTrainedTokenizerFast, **roles) -> PreTrainedTokenizerFast:
    """Another tokenizer that holds the same."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(made.backend_tokenizer.to_str())
    roles = {"chat_template": made.chat_template} | roles
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def llama3() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose text ends in one token, and whose turns end in another."""
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>"]
    made = copied(QWEN, bos_token=names[0], eos_token=names[1])
    made.add_special_tokens({"additional_special_tokens": [*names[2:], "<|eot_id|>"]})
    made.chat_template = LLAMA3
    return made


def test_identical_vocabularies_are_mapped_token_by_token() -> None:
    found = token_map(side(tokenizer()), side(copied(tokenizer(), eos_token="</s>")))
    assert found.other_ids == tuple(range(300))
    assert found.reads == tuple((i,) for i in range(300))
    assert found.unused == found.ends == ()


@pytest.mark.parametrize("pair", [(32000, 32001), (128256, 128320)])
def test_rows_of_padding_are_nobodys(pair) -> None:
    few, many = (Vocabulary(tokenizer(), 300 + size - pair[0]) for size in pair)
    for one, two in ((few, many), (many, few)):
        found = token_map(one, two)
        assert found.other_ids[:300] == tuple(range(300))
        assert set(found.other_ids[300:]) <= {-1} and not any(found.reads[300:])
        assert found.unused == tuple(range(300, two.size))


def test_one_added_token() -> None:
    more = copied(tokenizer(), bos_token="<s>", eos_token="</s>", unk_token="<pad>")
    more.add_special_tokens({"pad_token": "[PAD]"})
    assert len(more) == 301
    found = token_map(side(tokenizer()), side(more))
    assert found.other_ids == tuple(range(300)) and found.unused == (300,)
    back = token_map(side(more), side(tokenizer()))
    assert back.other_ids == (*range(300), -1) and back.reads[300] == ()


def test_the_same_strings_in_another_order() -> None:
    found = token_map(side(tokenizer()), side(renumbered(turned())))
    names = tokenizer().convert_ids_to_tokens(range(300))
    assert found.other_ids == tuple(turned()[name] for name in names)
    assert found.unused == ()


@pytest.mark.parametrize("one", [LLAMA, QWEN, tokenizer()])
@pytest.mark.parametrize("two", [LLAMA, QWEN, tokenizer()])
def test_a_token_and_what_is_read_for_it_are_the_same_bytes(one, two) -> None:
    ours, theirs = vocabularies.bytes_of(one), vocabularies.bytes_of(two)
    found = token_map(side(one), side(two))
    used = [other for other in found.other_ids if other >= 0]
    assert len(used) == len(set(used))
    for text, own, other in zip(ours, found.reads, found.other_ids, strict=True):
        assert b"".join(theirs[token] for token in own) == text
        assert bool(own) == bool(text or other >= 0)
        if other >= 0:
            assert own == (other,)
        elif text:
            assert {i for i, known in enumerate(theirs) if known == text} <= set(used)


def test_strings_that_differ_and_mean_one_thing() -> None:
    found = token_map(side(QWEN), side(LLAMA))
    ours, theirs = QWEN.get_vocab(), LLAMA.get_vocab()
    for one, two in [
        ("Ġthe", "▁the"), ("one", "one"), ("ĠÃł", "▁à"),
        ("Ċ", "<0x0A>"), ("Ġ", "▁"), ("æ", "<0xE6>"),
        ("<|im_end|>", "</s>"),
    ]:  # fmt: skip
        assert found.other_ids[ours[one]] == theirs[two], one
    assert found.other_ids[ours["<|im_start|>"]] == -1
    assert not found.reads[ours["<|im_start|>"]]
    same = len(set(ours) & set(theirs))
    assert len(found.formula_ids) > 2 * same


@pytest.mark.parametrize(
    ("made", "end"),
    [
        (LLAMA, "</s>"),
        (QWEN, "<|im_end|>"),
        (llama3(), "<|eot_id|>"),
        (vocabularies.qwen_like(), "<|im_end|>"),  # no template: the EOS
        (vocabularies.unigram_like(), "</s>"),
        (copied(LLAMA, eos_token="</s>", chat_template=None), "</s>"),
    ],
)
def test_what_ends_a_turn(made, end) -> None:
    assert end_of_turn(side(made)) == made.convert_tokens_to_ids(end)


def test_a_template_that_refuses_leaves_the_end_of_text() -> None:
    made = vocabularies.llama_like(chat_template="{{ raise_exception('no') }}")
    assert end_of_turn(side(made)) == made.eos_token_id


def test_every_end_of_a_model_counts_as_the_end_of_a_turn() -> None:
    """Several ids of a generation configuration, either way."""
    one, two = llama3(), QWEN
    ends = ("<|eot_id|>", "<|end_of_text|>")
    other = ("<|im_end|>", "<|endoftext|>")
    found = token_map(side(one, *ends), side(two, *other))
    turn = two.convert_tokens_to_ids("<|im_end|>")
    assert found.other_ids[one.convert_tokens_to_ids("<|eot_id|>")] == turn
    assert found.other_ids[one.convert_tokens_to_ids("<|end_of_text|>")] == -1
    assert found.reads[one.convert_tokens_to_ids("<|end_of_text|>")] == (turn,)
    # a token of that name is there, and is no end of the formula's
    assert found.other_ids[one.convert_tokens_to_ids("<|endoftext|>")] == -1
    assert found.ends == (turn, two.convert_tokens_to_ids("<|endoftext|>"))

    back = token_map(side(LLAMA, "</s>"), side(two, *other))
    assert back.other_ids[LLAMA.eos_token_id] == turn
    assert back.ends == (turn, two.convert_tokens_to_ids("<|endoftext|>"))
    assert not set(back.ends) & set(back.unused)


def test_a_tokenizer_that_does_not_say_how_it_decodes_is_noted() -> None:
    from tokenizers import Tokenizer

    mute = Tokenizer.from_str(tokenizer().backend_tokenizer.to_str())
    mute.decoder = None
    found = token_map(side(tokenizer()), side(PreTrainedTokenizerFast(tokenizer_object=mute)))
    assert found.literal and not token_map(side(QWEN), side(LLAMA)).literal
    words = tokenizer().get_vocab()
    assert found.other_ids[words["a"]] == words["a"] and found.other_ids[words["Ġa"]] == -1
