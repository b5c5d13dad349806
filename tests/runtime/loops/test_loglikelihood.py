"""Given completions in batches, against the scores of each of their tokens alone."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import vocabularies
from reference_rules import plain
from tokenizer_models import models
from transformers import NoRepeatNGramLogitsProcessor

import descant
from descant import FormulaError, ModelError, TableModel
from descant.formula import STAGES

teacher = importlib.import_module("descant.runtime.loops.loglikelihood")

FORMULAS = [
    "base",
    "base + a*arm - 0.3*base@none",
    "base + a*lora4 - 0.3*gpt2",
    "mix(0.3: base, 0.7: mistral) | repetition_penalty(1.3) | temperature(0.7)",
    "where(entropy(base) > 4.5, base + a*arm, base)",
    "where(step < 2, base, mistral)",
    "where(step >= 4, lora8, where(max_prob(base) < 0.1, arm, base))",
    "top_p(base, 0.9) + a*(arm - base) | top_k(40)",
    "mix(0.5: base, 0.5: align(other))",
    "base + a*arm | rerank(rm, k=4, w=1.5)",
    "(base | rerank(rm, k=3, norm=prefix, keep=all)) + a*arm | repetition_penalty(1.2)",
]


def texts(count: int, seed: int = 3) -> tuple[list[list[int]], list[list[int]], list[float]]:
    """Prompts, some of them twice, completions of many lengths, and values of ``a``."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(most: int, least: int = 1) -> list[int]:
        length = int(torch.randint(least, most, (1,), generator=generator))
        return torch.randint(3, 300, (length,), generator=generator).tolist()

    prompts = [drawn(20) for _ in range(count)]
    prompts[1], prompts[-1] = prompts[0], prompts[0]
    completions = [drawn(25) for _ in range(count)]
    completions[1] = [*completions[0][:-1], 7]
    return prompts, completions, [(0.5, 0.0, 1.5)[i % 3] for i in range(count)]


def one_by_one(decoder: Any, prompt: Any, ids: list[int], **given: Any) -> torch.Tensor:
    """``(len(ids), V)`` log-probabilities by the verb that reads a token at a time."""
    return torch.log_softmax(decoder.scores(prompt, ids[:-1], **given).double(), -1)


def agree(found: Any, rows: torch.Tensor, ids: list[int]) -> None:
    said = [float(rows[i, token]) for i, token in enumerate(ids)]
    assert found.logprobs == pytest.approx(said, abs=1e-4, rel=1e-6)
    assert found.total == pytest.approx(sum(said), abs=1e-3, rel=1e-6)
    best = rows.max(dim=-1).values
    for i, (token, greedy) in enumerate(zip(ids, found.greedy, strict=True)):
        if greedy != (int(rows[i].argmax()) == token):
            assert float(best[i]) - said[i] < 2e-4  # as good as one another
    assert found.is_greedy == all(found.greedy)


@pytest.mark.pages
@pytest.mark.parametrize("formula", FORMULAS)
def test_in_batches_as_one_by_one(compiled, monkeypatch, formula) -> None:
    """However many places of a text are read at once."""
    params = {"a": 0.5} if "a*" in formula else None
    decoder = compiled(formula, params=params)
    prompts, completions, values = texts(5)
    alone = [
        one_by_one(decoder, prompt, ids, params={"a": a} if params else None)
        for prompt, ids, a in zip(prompts, completions, values, strict=True)
    ]
    for floats in (1, 9 * 300, 2**25):
        monkeypatch.setattr(teacher, "FLOATS", floats)
        found = decoder.loglikelihood(
            prompts, completions, params={"a": values} if params else None, batch_size=3
        )
        for one, rows, ids in zip(found, alone, completions, strict=True):
            agree(one, rows, ids)


def test_agreeing_can_fail(compiled) -> None:
    decoder = compiled("base")
    [found] = decoder.loglikelihood([5, 6], [9, 10])
    rows = one_by_one(decoder, [5, 6], [9, 10])
    agree(found, rows, [9, 10])
    with pytest.raises(AssertionError):
        agree(found, rows, [9, 11])
    rows[1, 10] += 1e-3
    with pytest.raises(AssertionError):
        agree(found, rows, [9, 10])


def test_greedy_is_what_decoding_gives(compiled) -> None:
    decoder = compiled("base + 0.5*arm")
    [made] = decoder.generate([5, 6, 7], max_new_tokens=12, eos_token_id=[])
    wrong = [*made.token_ids[:-1], (made.token_ids[-1] + 1) % 300]
    right, other = decoder.loglikelihood([5, 6, 7], [made.token_ids, wrong])
    assert right.is_greedy and not other.is_greedy
    assert other.greedy == [True] * 11 + [False]


def test_against_plain_transformers(zoo, compiled) -> None:
    prompts, completions, _ = texts(5)
    found = compiled("base + 0.5*arm").loglikelihood(prompts, completions, batch_size=2)
    for prompt, ids, one in zip(prompts, completions, found, strict=True):
        for i, token in enumerate(ids):
            read = [*prompt, *ids[:i]]
            scores = plain.logprobs(zoo.model("base"), read) + 0.5 * plain.logprobs(
                zoo.model("arm"), read
            )
            said = float(torch.log_softmax(scores, -1)[token])
            assert one.logprobs[i] == pytest.approx(said, abs=1e-4)


@pytest.mark.pages
@pytest.mark.parametrize("floats", [1, 2**14])
def test_models_that_read_several_tokens_for_one(monkeypatch, floats) -> None:
    monkeypatch.setattr(teacher, "FLOATS", floats)
    decoder = descant.compile("mix(0.5: q, 0.5: align(bytes)) + 0.3*align(l)", models())
    prompts = ["the stone", "a", "été 日本"]
    completions = [
        decoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (" in the river goes on", " small stone", " and the sea")
    ]
    found = decoder.loglikelihood(prompts, completions, batch_size=2)
    for prompt, ids, one in zip(prompts, completions, found, strict=True):
        agree(one, one_by_one(decoder, prompt, ids), ids)


def test_a_stage_that_looks_at_the_text(compiled) -> None:
    descant.logits_processor("no_pair_again", NoRepeatNGramLogitsProcessor(2))
    try:
        decoder = compiled("base + 0.5*arm | no_pair_again")
        ids = [8, 9, 10, 8, 11, 12, 8, 9, 13]
        found = decoder.loglikelihood([[7, 8, 7], [4]], [ids, ids], batch_size=2)
        for prompt, one in zip(([7, 8, 7], [4]), found, strict=True):
            agree(one, one_by_one(decoder, prompt, ids), ids)
            assert one.logprobs[7] == -torch.inf and one.total == -torch.inf
    finally:
        del STAGES["no_pair_again"]


def read_by(model: Any) -> list[int]:
    """Grows by the tokens of each forward of a model's backbone."""
    read: list[int] = []
    model.base_model.register_forward_hook(
        lambda module, args, kwargs, out: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return read


def test_a_prompt_is_read_once_for_all_that_follow_it(zoo, compiled) -> None:
    from checkpoints import fresh

    model = fresh(zoo.path("base"))
    decoder, read = compiled("base", models={"base": model}), read_by(model)
    prompt = list(range(3, 43))
    decoder.loglikelihood(prompt, [[token] for token in (5, 6, 7, 8)])
    assert sum(read) == 40  # one row, and four tokens looked up in it
    read.clear()
    found = decoder.loglikelihood(prompt, [[5, 6, 7], [5, 6, 8], [9, 9, 9]], batch_size=8)
    assert sum(read) == 40 + 2 * 3  # the prompt's last token again, before what follows it
    assert found[0].logprobs[:2] == found[1].logprobs[:2]


def test_a_side_that_no_text_takes_is_not_read(zoo, compiled) -> None:
    from checkpoints import fresh

    arm = fresh(zoo.path("arm"))
    decoder = compiled("where(step < a, base, arm)", models={"arm": arm}, params={"a": 9})
    read = read_by(arm)
    decoder.loglikelihood([5, 6, 7], [list(range(3, 11))])
    assert sum(read) == 3  # the prompt
    decoder.loglikelihood([5, 6, 7], [list(range(3, 14))])
    assert sum(read) > 6


def test_no_forward_has_more_logits_than_there_is_room_for(zoo, compiled, monkeypatch) -> None:
    from checkpoints import fresh

    model = fresh(zoo.path("base"))
    sizes: list[int] = []
    model.register_forward_hook(lambda module, args, out: sizes.append(out.logits.numel()))
    decoder = compiled("base", models={"base": model})
    sizes.clear()
    monkeypatch.setattr(teacher, "FLOATS", 12 * 300)
    prompts, completions, _ = texts(6)
    decoder.loglikelihood(prompts, completions, batch_size=4)
    assert 4 * 300 < max(sizes) <= 12 * 300


def test_what_goes_together(compiled) -> None:
    decoder = compiled("base + a*arm", params={"a": 0.5})
    whole = decoder.loglikelihood(["the river", "a"], [" goes", " stone"])
    again = decoder.loglikelihood("the river", [" goes"])
    ids = decoder.tokenizer(" goes", add_special_tokens=False)["input_ids"]
    assert whole[0].logprobs == pytest.approx(again[0].logprobs, abs=1e-5)
    assert decoder.loglikelihood("the river", ids)[0] == again[0]
    swept = decoder.loglikelihood("the river", " goes", params={"a": [0.5, 1.0]})
    assert swept[0].total == pytest.approx(again[0].total, abs=1e-5) != swept[1].total
    nothing = decoder.loglikelihood("the river", [[], ids])[0]
    assert (nothing.total, nothing.is_greedy, nothing.logprobs) == (0.0, True, [])
    assert decoder.loglikelihood([], []) == []


def test_the_longest_text_that_fits(compiled) -> None:
    """A text's last token is not read, so that there is room for one more than is read."""
    decoder = compiled("short")
    assert decoder.max_length == 24
    for length in (1, 10, 24):
        [found] = decoder.loglikelihood(list(range(5, 5 + length)), [[9] * (25 - length)])
        assert len(found.logprobs) == 25 - length
        with pytest.raises(ModelError, match="read at most 24"):
            decoder.loglikelihood(list(range(5, 5 + length)), [[9] * (26 - length)])
    assert decoder.scores(list(range(5, 29)), []).shape == (1, 300)


@pytest.mark.parametrize(
    ("formula", "arguments", "says"),
    [
        ("base | best_of(rm, n=2)", ([3], [[4]]), "loglikelihood is not for .* best_of"),
        ("base | blockwise(rm)", ([3], [[4]]), "generate works"),
        ("base", ([[3], [4]], [[4], [5], [6]]), "2 prompts and 3 completions"),
        ("base", ([3], [[300]]), "the completion has the token id 300, and"),
        ("base", ([3], [[4]], 0), "batch_size is 0"),
    ],
)
def test_what_cannot_be_scored_is_said(compiled, formula, arguments, says) -> None:
    prompts, completions, *size = arguments
    more = {"batch_size": size[0]} if size else {}
    with pytest.raises(ValueError, match=says):
        compiled(formula).loglikelihood(prompts, completions, **more)


def test_text_needs_a_tokenizer() -> None:
    decoder = descant.compile("base", {"base": TableModel.random(8, seed=0)})
    with pytest.raises(ValueError, match="needs a tokenizer"):
        decoder.loglikelihood([3], "a")


def test_an_error_names_the_text_and_the_token() -> None:
    table = torch.zeros(6, 6)
    table[4] = torch.nan
    decoder = descant.compile("base", {"base": TableModel(table)})
    prompts, completions = [[1], [2]], [[3, 3, 3], [3, 3, 4, 5]]
    with pytest.raises(FormulaError, match="base gave NaN for row 1, token 3"):
        decoder.loglikelihood(prompts, completions)
    lanes = {name: TableModel(torch.eye(6).roll(i, 1)) for i, name in enumerate(("base", "arm"))}
    narrow = descant.compile("top_k(base, 1) + top_k(arm, 1)", lanes)
    with pytest.raises(FormulaError, match="every token is excluded for row 0, token 0"):
        narrow.loglikelihood([0], [[1]])


def test_a_text_that_was_generated_is_the_same_tokens() -> None:
    """Also where the tokenizer writes a space of its own before a first word."""
    made = vocabularies.llama_like()
    spec = {"model": TableModel.random(len(made), seed=2), "tokenizer": made}
    decoder = descant.compile("m", {"m": spec})
    for text in (" stone", " the river goes on"):
        ids = made("the" + text)["input_ids"][2:]
        by_text, by_ids = (decoder.loglikelihood(["the"], [each])[0] for each in (text, ids))
        assert by_text == by_ids
