"""Models whose tokenizers differ in kind, against the rule worked out from nothing every time."""

from __future__ import annotations

import copy
import logging
from functools import cache

import pytest
import torch
import vocabularies
from checkpoints import gpt2
from reference_rules import plain
from tokenizer_models import made, models

import descant

PROMPTS = ["the stone", "a", "def add(one, two): return", "été 日本"]
NEW = 14


@cache
def texts(name: str) -> list[bytes]:
    return vocabularies.bytes_of(models()[name]["tokenizer"])


@cache
def pieces(name: str, text: bytes) -> tuple[int, ...]:
    """How a tokenizer writes a text in the middle of another; half a character by its bytes."""
    tokenizer = models()[name]["tokenizer"]
    try:
        whole = tokenizer(f"a;{text.decode()}", add_special_tokens=False)["input_ids"]
        before = tokenizer("a;", add_special_tokens=False)["input_ids"]
        if whole[: len(before)] == before:
            return tuple(whole[len(before) :])
    except UnicodeDecodeError:
        pass
    known = texts(name)
    return tuple(max(known.index(text[i : i + 1]), 0) for i in range(len(text)))


class Aligned:
    """One model's say over the tokens of another, from the whole text every time."""

    def __init__(self, ours: str, theirs: str, prompt: str) -> None:
        self.ours, self.theirs = ours, theirs
        self.model, self.tokenizer = models()[theirs]["model"], models()[theirs]["tokenizer"]
        self.ids = list(self.tokenizer(prompt)["input_ids"])
        self.size = len(models()[ours]["tokenizer"])

    def read(self, token: int) -> None:
        self.ids += pieces(self.theirs, texts(self.ours)[token])

    def probabilities(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(V,)``, and how much of it all they are."""
        own = plain.logprobs(self.model, self.ids).exp()
        found = torch.zeros(self.size)
        for token, other in token_map(self.ours, self.theirs).items():
            found[token] = own[other]
        return found, found.sum()


@cache
def token_map(ours: str, theirs: str) -> dict[int, int]:
    """Tokens with the same bytes, one to one; strings come before bytes in brackets."""
    one, two = (models()[name]["tokenizer"] for name in (ours, theirs))
    found = {one.eos_token_id: two.eos_token_id}
    for text in set(texts(ours)) - {b""}:
        pairs = []
        for name, tokenizer in ((ours, one), (theirs, two)):
            same = [token for token, known in enumerate(texts(name)) if known == text]
            names = tokenizer.convert_ids_to_tokens(same)
            pairs.append(
                [
                    t
                    for _, t in sorted(
                        (n in vocabularies.HEX, t) for n, t in zip(names, same, strict=True)
                    )
                ]
            )
        found |= dict(zip(*pairs, strict=False))
    return found


def readable(name: str) -> torch.Tensor:
    """1 for each token that is text, and for the end; 0 for tokens that nobody else has."""
    found = torch.tensor([float(bool(text)) for text in texts(name)])
    found[models()[name]["tokenizer"].eos_token_id] = 1
    return found


def mixed(ours: str, theirs: str, prompt: str, weight: float) -> tuple[list[int], list[float]]:
    """Greedy tokens of ``mix``, the end of text included, and the share that was mapped."""
    base, other = models()[ours], Aligned(ours, theirs, prompt)
    ids, answer, shares = list(base["tokenizer"](prompt)["input_ids"]), [], []
    for _ in range(NEW):
        said, share = other.probabilities()
        shares.append(float(share))
        both = weight * plain.logprobs(base["model"], ids).exp() + (1 - weight) * said
        token = int(both.mul(readable(ours)).argmax())
        ids.append(token)
        answer.append(token)
        if token in (base["tokenizer"].eos_token_id, models()[theirs]["tokenizer"].eos_token_id):
            break
        other.read(token)
    return answer, shares


@pytest.mark.parametrize(("ours", "theirs"), [("q", "l"), ("l", "q"), ("q", "bytes")])
def test_a_mixture_is_the_rule_from_nothing(ours, theirs) -> None:
    decoder = descant.compile(f"mix(0.7: {ours}, 0.3: align({theirs}))", models())
    ends = [models()[ours]["tokenizer"].eos_token_id, models()[theirs]["tokenizer"].eos_token_id]
    found = decoder.generate(PROMPTS, max_new_tokens=NEW, eos_token_id=ends, batch_size=3)
    shares, longer = [], 0
    for prompt, one in zip(PROMPTS, found, strict=True):
        expected, mass = mixed(ours, theirs, prompt, 0.7)
        assert one.token_ids == expected
        shares += mass
        read = [pieces(theirs, texts(ours)[token]) for token in expected]
        longer += sum(len(ids) > 1 for ids in read)
    assert longer > 1
    report = str(decoder.plan)
    assert f"mapped      {sum(shares) / len(shares):.1%} of align({theirs})'s probability" in report


FORMULAS = [
    "mix(0.7: q, 0.3: align({x}))",
    "where(step < 3, q, mix(0.7: q, 0.3: align({x})))",
    "max(q, align({x}))",
    "mix(0.7: q, 0.3: align({x}@none)) | temperature(1.5)",
    "mix(0.7: q, 0.3: align({x})) | best_of(q, n=3)",
    "mix(0.7: q, 0.3: align({x})) | blockwise(2*q, beams=2, samples=2, length=3)",
    "mix(0.7: q, 0.3: align({x})) | reject(q, target=-2, entropy=3.5, beta=0.3, retries=2)",
    "q | best_of(align({x}) - q, n=2)",
    'mix(0.7: q, 0.3: align({x})) | particles(align({x}) - q, n=3, until="e")',
]


@pytest.mark.pages(name="l")
@pytest.mark.parametrize("name", ["l", "bytes"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_row_is_what_it_is_alone(formula, name) -> None:
    """Neighbours that read more tokens for one, and caches that grow for them, change nothing."""
    decoder = descant.compile(formula.format(x=name), models())
    settings = {"max_new_tokens": NEW, "temperature": 1.0, "seed": 4}
    together = decoder.generate(PROMPTS, **settings)
    for prompt, one in zip(PROMPTS, together, strict=True):
        [alone] = decoder.generate(prompt, **settings)
        assert alone.token_ids == one.token_ids
    assert [one.token_ids for one in decoder.generate(PROMPTS, batch_size=2, **settings)] == [
        one.token_ids for one in together
    ]


def test_scores_along_a_text_are_those_of_the_rule() -> None:
    decoder = descant.compile("mix(0.5: q, 0.5: align(bytes))", models())
    tokenizer = models()["q"]["tokenizer"]
    text = tokenizer(" the rivers 日 été", add_special_tokens=False)["input_ids"]
    scores = decoder.scores("a stone", text)
    other, ids = Aligned("q", "bytes", "a stone"), list(tokenizer("a stone")["input_ids"])
    for said, token in zip(scores, [*text, None], strict=True):
        both = (plain.logprobs(models()["q"]["model"], ids).exp() + other.probabilities()[0]) / 2
        expected = both * readable("q")
        torch.testing.assert_close(said.exp(), expected, atol=1e-5, rtol=1e-4)
        if token is not None:
            ids.append(token)
            other.read(token)


def test_a_model_that_runs_out_of_positions_ends_the_row() -> None:
    """A text of 14 tokens is more than 40 for a model of bytes."""
    tokenizer = models()["q"]["tokenizer"]
    small = made(vocabularies.llama_like(259), 3, max_position_embeddings=40)
    both = {"q": models()["q"], "bytes": small}
    decoder = descant.compile("mix(0.7: q, 0.3: align(bytes))", both)
    prompts = ["a", "the stones", "été"]
    found = decoder.generate(prompts, max_new_tokens=38, temperature=0.8, seed=2)
    roomy = descant.compile("mix(0.7: q, 0.3: align(bytes))", models())
    free = roomy.generate(prompts, max_new_tokens=38, temperature=0.8, seed=2)
    for prompt, one, other in zip(prompts, found, free, strict=True):
        room = 40 - len(small["tokenizer"](prompt)["input_ids"])
        read = [len(pieces("bytes", texts("q")[token])) for token in other.token_ids]
        fits = next((i for i in range(len(read)) if sum(read[: i + 1]) >= room), len(read))
        assert one.token_ids == other.token_ids[: fits + 1]
        assert one.finish_reason == ("length" if fits < len(read) else other.finish_reason)
    assert any(one.finish_reason == "length" for one in found)
    best = descant.compile("mix(0.7: q, 0.3: align(bytes)) | best_of(q, n=3)", both)
    assert len(best.generate(prompts, max_new_tokens=38, seed=2)) == 3
    with pytest.raises(ValueError, match="too long for a model of another vocabulary"):
        decoder.scores("a", tokenizer(" rivers" * 8)["input_ids"])


def test_absolute_positions_are_never_left() -> None:
    """GPT-2 has a row of weights per position, and no more of them."""
    tokenizer = copy.deepcopy(vocabularies.llama_like(300))
    both = {"q": models()["q"], "gpt2": made(tokenizer, 5, model=gpt2)}
    for formula in (
        "mix(0.7: q, 0.3: align(gpt2))",
        "mix(0.7: q, 0.3: align(gpt2)) | best_of(q, n=3)",
    ):
        decoder = descant.compile(formula, both)
        found = decoder.generate(PROMPTS, max_new_tokens=60, temperature=1.5, seed=1)
        assert "length" in {one.finish_reason for one in found}


def test_little_mass_is_a_warning_once_a_run(caplog) -> None:
    decoder = descant.compile("mix(0.7: bytes, 0.3: align(q))", models())
    with caplog.at_level(logging.WARNING, logger="descant"):
        decoder.generate(PROMPTS, max_new_tokens=3, seed=1)
    said = [one.message for one in caplog.records if "of its probability" in one.message]
    assert len(said) == 1 and said[0].startswith("align(q): only ")
    caplog.clear()
    everything = descant.compile("mix(0.7: q, 0.3: align(l))", models() | {"l": models()["q"]})
    everything.generate("a", max_new_tokens=3)
    assert not caplog.records and "mapped    " not in str(everything.plan)


def test_every_end_of_a_model_is_one_end() -> None:
    """The probabilities of two ends add up in the one that the formula has."""
    base = made(vocabularies.llama_like(), 2)
    chat = made(vocabularies.qwen_like(), 1)
    ends = chat["tokenizer"].convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    chat["model"].generation_config.eos_token_id = ends
    decoder = descant.compile("mix(0.5: l, 0.5: align(q))", {"l": base, "q": chat})
    said = decoder.scores("the stone", [])[0].exp()
    ids = chat["tokenizer"]("the stone")["input_ids"]
    own = plain.logprobs(chat["model"], ids).exp()
    eos = base["tokenizer"].eos_token_id
    mine = plain.logprobs(base["model"], base["tokenizer"]("the stone")["input_ids"]).exp()
    torch.testing.assert_close(said[eos], (mine[eos] + own[ends].sum()) / 2)
