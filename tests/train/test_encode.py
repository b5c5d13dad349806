"""What is learnt is what is read: prompts as when decoding, responses to their end."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from checkpoints import BOS, EOS, tokenizer
from tokenizers.processors import TemplateProcessing

from descant.models.checkpoint.spec import ModelSpec
from descant.models.text.prompts import render
from descant.train import TrainFileError
from descant.train.encode import Counts, Encoder, shortened
from descant.train.examples import Example
from descant.train.losses import IGNORED

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the sea?"}]
TURNS = (
    "[{{ messages[0]['role'] }}]{% for m in messages %}{{ m['content'] }}{% if m['role'] == "
    "'assistant' and not (loop.last and continue_final_message) %}{{ '</s>\n' }}{% endif %}"
    "{% endfor %}"
)


def encoder(length: int = 100, drop: bool = False, **spec: Any) -> Encoder:
    return Encoder(ModelSpec(path="x", **spec), tokenizer(), frozenset([EOS]), length, drop)


def row(example: Example, **options: Any) -> Any:
    [found] = encoder(**options).rows([example], Counts())
    return found


@pytest.mark.parametrize(
    ("spec", "prompt"),
    [
        ({}, "the river"),
        ({"template": "Q: {prompt} A:"}, "the river"),
        ({"template": "{system}: {prompt}", "system": "Be brief"}, "the river"),
        ({"prefix": "def add"}, "the river"),
        ({}, MESSAGES),
        ({"template": TURNS}, MESSAGES),
        ({"template": TURNS}, "the river"),
        ({"template": "chat"}, "the river"),
        ({"template": "chat"}, MESSAGES),
    ],
)
def test_prompts_are_those_of_decoding(spec: Any, prompt: Any) -> None:
    found = row(Example(prompt, " goes on", " sleeps", "x"), **spec)
    before = render("m", ModelSpec(path="x", **spec), tokenizer(), prompt, None)
    for side, said in (("", " goes on"), ("rejected_", " sleeps")):
        ids, labels = list(found[side + "input_ids"]), list(found[side + "labels"])
        assert ids[: len(before)] == before
        assert labels == [IGNORED] * len(before) + ids[len(before) :]
        assert tokenizer().decode(ids[len(before) : -1]) == said
        assert ids[-1] == EOS and ids.count(EOS) == 1 and ids.count(BOS) <= 1


def test_a_border_inside_a_token_is_not_crossed() -> None:
    """Decoding reads the prompt's ids alone, so no token may begin in it and end behind it."""
    ids = tokenizer()("the riv", add_special_tokens=False)["input_ids"]
    whole = tokenizer()("the river", add_special_tokens=False)["input_ids"]
    assert whole[: len(ids)] != ids
    found = row(Example("the riv", "er", None, "x"))
    assert list(found["input_ids"])[: len(ids) + 1] == [BOS, *ids]
    assert tokenizer().decode(list(found["input_ids"])[len(ids) + 1 : -1]) == "er"


def test_an_end_that_is_there_is_not_doubled() -> None:
    assert list(row(Example("the", " sea</s>", None, "x"))["input_ids"]).count(EOS) == 1


def test_a_template_without_an_end_gets_one() -> None:
    assert row(Example(MESSAGES, "yes", None, "x"))["input_ids"][-1] == EOS


def test_all_of_a_text_is_learnt() -> None:
    found = row(Example(None, "the river", None, "x"))
    assert found["labels"] == found["input_ids"]
    assert found["input_ids"][0] == BOS and found["input_ids"][-1] == EOS


def with_both() -> Any:
    """A tokenizer that adds BOS and EOS by itself."""
    own = copy.deepcopy(tokenizer())
    pairs = [("<s>", BOS), ("</s>", EOS)]
    template = TemplateProcessing(single="<s> $A </s>", special_tokens=pairs)
    own.backend_tokenizer.post_processor = template
    assert own("a")["input_ids"][:1] == [BOS] and own("a")["input_ids"][-1:] == [EOS]
    return own


@pytest.mark.parametrize("own", [tokenizer, with_both])
@pytest.mark.parametrize("text", ["the river", "<s>the river", "the river</s>", "<s>the river</s>"])
def test_a_text_begins_once_and_ends_once(own: Any, text: str) -> None:
    """Whatever the row or the tokenizer writes by itself."""
    made = own()
    encoder = Encoder(ModelSpec(path="x"), made, frozenset([EOS]), 100)
    plain = made("the river", add_special_tokens=False)["input_ids"]
    [learnt] = encoder.rows([Example(None, text, None, "x")], Counts())
    assert list(learnt["input_ids"]) == list(learnt["labels"]) == [BOS, *plain, EOS]
    opening, answer = ("<s>the", text.removeprefix("<s>").removeprefix("the"))
    for prompt in ("the", opening):
        [row] = encoder.rows([Example(prompt, answer, None, "x")], Counts())
        assert list(row["input_ids"]) == [BOS, *plain, EOS]


def test_a_token_without_an_embedding_names_its_line() -> None:
    own = copy.deepcopy(tokenizer())
    own.add_tokens(["<extra>"])
    encoder = Encoder(ModelSpec(path="x"), own, frozenset([EOS]), 100, size=300)
    message = r"x\.jsonl, line 7: model is to read '<extra>', which is the token 300"
    for example in (("the <extra>", "a"), ("the", "a <extra>"), (None, "<extra>")):
        with pytest.raises(TrainFileError, match=message):
            encoder.rows([Example(*example, None, "x.jsonl, line 7")], Counts())
    assert encoder.rows([Example("the", "a", None, "x")], Counts())


def lengths(count: int) -> Example:
    return Example("the", "a" * count, "b", "x")


@pytest.mark.parametrize("drop", [False, True])
def test_what_is_too_long(drop: bool) -> None:
    whole = row(lengths(20))
    counts = Counts()
    kept = encoder(10, drop).rows([lengths(20), lengths(2), Example("a" * 30, "b", "c", "x")],
                                  counts)  # fmt: skip
    assert len(whole["input_ids"]) > 10
    if drop:
        assert (len(kept), counts.dropped, counts.truncated, counts.used) == (1, 2, 0, 1)
    else:
        assert (len(kept), counts.dropped, counts.truncated, counts.used) == (2, 1, 1, 2)
        assert kept[0]["input_ids"] == whole["input_ids"][:10]
        assert kept[0]["labels"] == whole["labels"][:10]
    assert str(Counts(9, 5, 1, 2, 3)) == (
        "5 of 9 rows used, 1 skipped as bad, 2 dropped as too long, 3 truncated"
    )


def test_a_prompt_that_cannot_be_rendered_names_its_line() -> None:
    example = Example([MESSAGES[1], MESSAGES[1]], "a", "b", "x.jsonl, line 7")
    with pytest.raises(TrainFileError, match=r"x\.jsonl, line 7: the template .* one user message"):
        row(example, template="Q: {prompt}")


def test_prefixes_cut_both_sides_alike_and_never_the_prompt() -> None:
    pairs = encoder().rows([Example("the sea", "x" * 40, "y" * 30, "x")] * 200, Counts())
    found = shortened(pairs, 0.5, seed=1)
    assert found == shortened(pairs, 0.5, seed=1) != shortened(pairs, 0.5, seed=2)
    assert 60 < sum(cut == pair for cut, pair in zip(found, pairs, strict=True)) < 140
    start = pairs[0]["labels"].count(IGNORED)
    for cut, pair in zip(found, pairs, strict=True):
        ends = len(cut["input_ids"]), len(cut["rejected_input_ids"])
        assert ends[1] == min(ends[0], len(pair["rejected_input_ids"]))
        assert ends[0] >= start + 4
        assert all(cut[key] == pair[key][: len(cut[key])] for key in pair)


@pytest.mark.parametrize(
    ("template", "prompt", "warned"),
    [(None, "the river", 1), (None, MESSAGES, 0), ("chat", "the river", 0), (None, None, 0)],
)
def test_text_that_goes_past_a_chat_template_is_said_once(template, prompt, warned, caplog):
    said = Example(prompt, " goes on", None, "x")
    encoder(template=template).rows([said, said], Counts())
    assert [each.getMessage()[:20] for each in caplog.records] == ["x: text is read as i"] * warned
