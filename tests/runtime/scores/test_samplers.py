"""Stages of transformers and the local-model servers, against loops by their definitions."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from checkpoints import tokenizer
from reference_rules.sampling import dry, processed, top_n_sigma, xtc

import descant
from descant.models.kernels.noise import uniform_on_host
from descant.runtime.scores.noise import gumbel_on_host, seed_key

V, COIN = 12, -2
TABLE = torch.randn(V, V, generator=torch.Generator().manual_seed(8))
TABLE[:, 3] += 2.5  # so that texts repeat themselves
TABLE[3, 7] += 4
BASE = descant.TableModel(TABLE)
PROMPT, ANSWER = [3, 7, 5, 3, 7], [5, 3, 7, 5, 3, 3, 3, 3, 7, 5, 3, 7]


def compiled(formula: str, **more):
    return descant.compile(formula, {"base": BASE}, **more)


def logprobs(text: list[int]) -> list[float]:
    return TABLE[text[-1]].log_softmax(-1).tolist()


def close(found: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("numbers", [(0.8, 1.75, 2), (3, 1.2, 1), (1, 2, 4), (0, 1.75, 2)])
def test_dry_is_its_authors_loop(numbers) -> None:
    multiplier, base, allowed = numbers
    chain = f"dry({multiplier}, base={base}, allowed_length={allowed})"
    for formula in (f"base | {chain}", f"1*(base | {chain})"):
        found = compiled(formula).scores(PROMPT, ANSWER)
        for i in range(len(ANSWER) + 1):
            text = PROMPT + ANSWER[:i]
            close(found[i], dry(logprobs(text), text, *numbers))


def test_dry_looks_back_fifty_tokens() -> None:
    text = [3] * 70
    found = compiled("base | dry(0.01, 1.1)").scores(text, [])[0]
    close(found, dry(logprobs(text), text, 0.01, 1.1, 2))
    assert 48 < math.log((logprobs(text)[3] - float(found[3])) / 0.01, 1.1) + 1e-3 < 48.1


def test_no_match_goes_over_a_breaker() -> None:
    own = tokenizer()
    size = len(own)
    table = torch.randn(size, size, generator=torch.Generator().manual_seed(1))
    decoder = descant.compile(
        "base | dry(2, 1.5, 1)", {"base": {"model": descant.TableModel(table), "tokenizer": own}}
    )
    words = {text: i for text, i in own.get_vocab().items() if len(text) == 1}
    a, b, colon = (words[text] for text in "ab:")
    names = own.convert_ids_to_tokens(range(size))
    breakers = {i for i, name in enumerate(names) if {*name} & {"Ċ", ":", '"', "*"}}
    assert colon in breakers
    for text in ([a, b, a, b, a], [a, colon, b, a, colon, b, a, colon], [a, b, colon, b, a, b]):
        expected = dry(table[text[-1]].log_softmax(-1).tolist(), text, 2, 1.5, 1, breakers)
        close(decoder.scores(text, [])[0], expected)
    text = [a, b, colon, a, b]
    one, two = decoder.generate(
        [text] * 2, max_new_tokens=1, logprobs=True, top_logprobs=size, dry_multiplier=[1, 1],
        dry_allowed_length=1, dry_base=2, logprobs_mode="processed_logprobs", temperature=1,
        dry_sequence_breakers=[["a"], []],
    )  # fmt: skip
    for completion, broken in ((one, {i for i, n in enumerate(names) if "a" in n}), (two, set())):
        both = dry(table[b].log_softmax(-1).tolist(), text, 1, 2, 1, broken)
        both = dry(both, text, 2, 1.5, 1, broken)  # the formula's own heeds the request's
        expected = torch.tensor(both).log_softmax(-1)
        [best] = completion.top_logprobs
        dense = torch.tensor([best[i] for i in range(size)])
        torch.testing.assert_close(dense, expected, atol=1e-4, rtol=1e-4)


def test_top_n_sigma_is_that_of_llama_cpp() -> None:
    numbers = [0.0, 0.5, 1.0, 2.0]
    decoder = compiled("base | top_k(9) | top_n_sigma(n)", params={"n": 1})
    for n in numbers:
        row = decoder.scores(PROMPT, [], params={"n": n})[0]
        best = processed([("top_k", 9)], PROMPT, torch.tensor(logprobs(PROMPT)))
        close(row, top_n_sigma(best.tolist(), n))


def drawn(prompt: list[int], tokens: list[int], seed: int, probability: float) -> None:
    """Every token is the one of the request's noise, after the coin of its step."""
    key = seed_key(seed)
    for step, token in enumerate(tokens):
        text = prompt + tokens[:step]
        scores = xtc(logprobs(text), probability, 0.1, uniform_on_host(key, step, COIN))
        noisy = [score + gumbel_on_host(key, step, i) for i, score in enumerate(scores)]
        assert noisy[token] == max(noisy)


@pytest.mark.parametrize("draft", [None, "prompt", "base", "base | xtc(0.5)"])
def test_xtc_tosses_the_coin_of_its_request_and_step(draft) -> None:
    """In a batch of unlike rows, alone, and verified several tokens at once."""
    chances, prompts = [0.5, 1.0, 0.0, 0.7], [[3], [7, 3], [1], [3, 7, 3]]
    decoder = compiled("base | xtc(p, threshold=0.1)", params={"p": 0.5})
    settings = {"max_new_tokens": 20, "temperature": 1.0, "seed": [1, 2, 3, 4], "draft": draft}
    found = decoder.generate(prompts, params={"p": chances}, batch_size=3, **settings)
    for prompt, completion, seed, chance in zip(prompts, found, (1, 2, 3, 4), chances, strict=True):
        drawn(prompt, completion.token_ids, seed, chance)
    fields = compiled("base").generate(prompts, xtc_probability=chances, **settings)
    assert [each.token_ids for each in fields] == [each.token_ids for each in found]


def test_a_text_is_likely_by_both_sides_of_the_coin() -> None:
    decoder = compiled("base | xtc(0.3, 0.1)")
    found = decoder.scores(PROMPT, ANSWER)
    for i in range(len(ANSWER)):
        own = logprobs(PROMPT + ANSWER[:i])
        cut = torch.tensor(xtc(own, 1, 0.1, 0)).softmax(-1)
        expected = (0.7 * torch.tensor(own).exp() + 0.3 * cut).log()
        torch.testing.assert_close(found[i], expected, atol=2e-5, rtol=2e-5)
    [likelihood] = decoder.loglikelihood([PROMPT], [ANSWER])
    rows = zip(found, ANSWER, strict=False)
    expected = [float(row.log_softmax(-1)[token]) for row, token in rows]
    assert likelihood.logprobs == pytest.approx(expected, abs=1e-5)


FORMULA = "base | no_repeat_ngram(n) | dry(m, 1.5, 1) | typical_p(0.9) | eta_cutoff(0.01)"


def by_hand(text: list[int], n: int, multiplier: float) -> torch.Tensor:
    scores = processed([("no_repeat_ngram", n)], text, torch.tensor(logprobs(text)))
    penalised = torch.tensor(dry(scores.tolist(), text, multiplier, 1.5, 1))
    return processed([("typical_p", 0.9), ("eta_cutoff", 0.01)], text, penalised)


@pytest.mark.parametrize("draft", [None, "prompt", "base"])
def test_each_row_has_its_own_text_and_numbers(draft) -> None:
    """Rows that come and go, in slots that others had before; written, and as fields."""
    ns, ms, prompts = [2, 0, 3, 1, 4], [0.5, 2, 0, 0.1, 0], [[3], [7, 3], [1, 3, 7], [5], [3] * 6]
    settings = {"max_new_tokens": 10, "temperature": 0, "batch_size": 2, "draft": draft}
    decoder = compiled(FORMULA, params={"n": 0, "m": 0})
    found = decoder.generate(prompts, params={"n": ns, "m": ms}, **settings)
    for prompt, completion, n, m in zip(prompts, found, ns, ms, strict=True):
        for i, token in enumerate(completion.token_ids):
            assert token == int(by_hand(prompt + completion.token_ids[:i], n, m).argmax())
    fields = compiled("base | typical_p(0.9) | eta_cutoff(0.01)").generate(
        prompts, no_repeat_ngram_size=ns, dry_multiplier=ms, dry_base=1.5, dry_allowed_length=1,
        **settings,
    )  # fmt: skip
    assert [each.token_ids for each in fields] == [each.token_ids for each in found]


@pytest.mark.parametrize(
    "search", ["blockwise(2*base, beams=2, samples=2, length=3)", "particles(base, n=4, length=2)"]
)
def test_what_a_search_keeps_repeats_nothing(search) -> None:
    decoder = compiled(f"base | no_repeat_ngram(2) | {search}")
    for answer in decoder.generate([PROMPT, [3]] * 2, max_new_tokens=16, seed=[1, 2, 3, 4]):
        pairs = [*pairwise(answer.token_ids)]
        assert len({*pairs}) == len(pairs)


def test_an_explanation_is_of_the_coin_that_was_tossed() -> None:
    decoder = compiled("base | xtc(0.5, 0.1)")
    inspection = decoder.inspect(PROMPT, max_new_tokens=8, temperature=1.0, seed=5)
    [completion] = decoder.generate(PROMPT, max_new_tokens=8, temperature=1.0, seed=5)
    assert inspection.completion.token_ids == completion.token_ids
    drawn(PROMPT, completion.token_ids, 5, 0.5)


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ({"typical_p": 0}, "typical_p is 0, and must be above 0"),
        ({"no_repeat_ngram_size": 1.5}, "no_repeat_ngram_size is 1.5, and must be a whole number"),
        ({"xtc_threshold": 2}, "xtc_threshold is 2, and must be at most 1"),
        ({"dry_sequence_breakers": "ab"}, "dry_sequence_breakers is 'ab'; give a list of strings"),
        ({"typ_p": 0.5}, "typ_p; it is called typical_p here"),
    ],
)
def test_a_field_that_cannot_be_is_said(field, problem) -> None:
    with pytest.raises((ValueError, TypeError), match=problem):
        compiled("base").generate(PROMPT, max_new_tokens=1, temperature=1, **field)
    neutral = {"typical_p": 1, "top_n_sigma": -1, "xtc_probability": 0, "dry_multiplier": 0.0,
               "no_repeat_ngram_size": 0, "eta_cutoff": 0, "epsilon_cutoff": 0}  # fmt: skip
    decoder = compiled("base")
    decoder.generate(PROMPT, max_new_tokens=1, temperature=1, **neutral)
    assert len(decoder._sessions) == 1
