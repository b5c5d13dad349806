"""How drafted texts end: at every limit, and just as they end without a draft."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import vocabularies

import descant

PROMPT = "the quick brown fox jumps over"
V = 17


def table(seed: int = 0, size: int = V) -> torch.Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed))


def round_robin() -> torch.Tensor:
    """After each token comes the next one, by far."""
    return 30 * torch.eye(V).roll(1, 1)


def stats(decoder: descant.Decoder, *call: Any, **options: Any) -> Any:
    """What one call counts, and its completions."""
    counted = decoder.session.engine.stats
    counted.clear()
    rows = decoder.generate(*call, eos_token_id=(), **options)
    return counted, rows


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_a_draft_that_always_agrees(length, temperature) -> None:
    models = {"x": descant.TableModel(table(0)), "y": descant.TableModel(table(1))}
    decoder = descant.compile("x + 0.5*y | top_k(9)", models)
    for tokens in (1, 2, 9, 16, 20):
        call = {"max_new_tokens": tokens, "temperature": temperature, "seed": 5}
        counted, [found] = stats(
            decoder, [3], draft="x + 0.5*y | top_k(9)", draft_length=length, **call
        )
        rounds = tokens // (length + 1) + (tokens % (length + 1) > 1)
        assert counted.rounds == rounds  # a last token alone is an ordinary step
        assert counted.accepted == counted.drafted == tokens - math.ceil(tokens / (length + 1))
        assert counted.tokens == tokens
        if rounds:
            assert counted.forwards == {"x": tokens, "y": tokens} or tokens % (length + 1) == 1
        assert found.token_ids == decoder.generate([3], eos_token_id=(), **call)[0].token_ids


@pytest.mark.parametrize("length", [1, 4])
def test_a_draft_that_never_agrees(length) -> None:
    models = {"x": descant.TableModel(round_robin()), "y": descant.TableModel(round_robin().T)}
    decoder = descant.compile("x", models)
    counted, [found] = stats(decoder, [3], draft="y", draft_length=length, max_new_tokens=12)
    assert found.token_ids == [(4 + i) % V for i in range(12)]
    assert (counted.rounds, counted.accepted, counted.tokens) == (11, 0, 12)
    left = [12 - done for done in range(11)]
    assert counted.drafted == sum(min(length, tokens - 1) for tokens in left)


@pytest.mark.pages
@pytest.mark.parametrize("draft", ["base", "base + a*arm", "prompt"])
def test_every_capacity(compiled, draft) -> None:
    decoder = compiled("base + a*arm", params={"a": 0.5}, draft=draft)
    for tokens in range(1, 7):
        [plain] = decoder.generate(PROMPT, max_new_tokens=tokens, eos_token_id=())
        call = {"draft": draft, "draft_length": 5, "eos_token_id": ()}
        [found] = decoder.generate(PROMPT, max_new_tokens=tokens, **call)
        assert (found.token_ids, found.finish_reason) == (plain.token_ids, "length")
        assert len(found.token_ids) == tokens


@pytest.mark.pages
@pytest.mark.parametrize(
    ("formula", "positions"), [("short", 24), ("gpt2 + opt", 62), ("opt + 0.1*short", 24)]
)
@pytest.mark.parametrize("draft", ["base", "itself", "prompt"])
def test_the_last_position_of_a_model(compiled, formula, positions, draft) -> None:
    """Whose positions are learned, or counted: prompt and answer fill them."""
    draft = formula if draft == "itself" else draft
    decoder = compiled(formula, draft=draft)
    limit = decoder._bound.positions
    prompts = [[1, *range(40, 40 + n)] for n in (limit - 9, limit - 2, 3)]
    for row, tokens in zip(prompts, (9, 2, 9), strict=True):
        call = {"max_new_tokens": tokens, "eos_token_id": (), "temperature": 0.9}
        plain = decoder.generate([row, prompts[2]], seed=[1, 2], **call)
        for length in (1, 3, 8):
            found = decoder.generate(
                [row, prompts[2]], seed=[1, 2], draft=draft, draft_length=length, **call
            )
            assert [one.token_ids for one in found] == [one.token_ids for one in plain]


def test_a_draft_with_fewer_positions_than_the_text(compiled) -> None:
    """It drafts as far as it can read, and others draft on; a prompt beyond it is not read."""
    decoder = compiled("base", draft="short")
    long, longer = [1, *range(40, 58)], [1, *range(40, 70)]
    call = {"max_new_tokens": 20, "eos_token_id": ()}
    plain = decoder.generate([[1, 50], long, longer], **call)
    for batch_size in (3, 1):
        counted, found = stats(
            decoder, [[1, 50], long, longer], draft="short", draft_length=4,
            max_new_tokens=20, batch_size=batch_size,
        )  # fmt: skip
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
        assert counted.drafted > 0
    counted, _ = stats(decoder, [longer], draft="short", draft_length=4, max_new_tokens=5)
    assert (counted.rounds, counted.drafted) == (0, 0)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("draft", ["base", "base + arm", "prompt"])
def test_eos_inside_a_draft(compiled, draft, temperature) -> None:
    decoder = compiled("base + arm", draft=draft)
    prompts, seeds = ["the river", "a", "def add(one"], [1, 2, 3]
    call = {"max_new_tokens": 16, "seed": seeds, "temperature": temperature, "batch_size": 2}
    free = decoder.generate(prompts, eos_token_id=(), **call)
    for place in range(0, 9, 2):
        ends = [row.token_ids[place] for row in free]
        for ids in (ends[:1], ends):
            plain = decoder.generate(prompts, eos_token_id=ids, **call)
            found = decoder.generate(prompts, eos_token_id=ids, draft=draft, draft_length=4, **call)
            for row, one in zip(found, plain, strict=True):
                assert (row.token_ids, row.text) == (one.token_ids, one.text)
                assert row.finish_reason == one.finish_reason


@pytest.mark.parametrize("draft", ["base", "base + arm", "prompt"])
def test_stop_strings_inside_a_draft_and_across_rounds(compiled, draft) -> None:
    decoder = compiled("base + arm", draft=draft)
    call = {"max_new_tokens": 16, "eos_token_id": (), "seed": 4, "temperature": 0.9}
    [free] = decoder.generate(PROMPT, **call)
    reasons = set()
    for start, width in itertools.product((0, 3, 6, 11), (1, 4)):
        stop = free.text[start : start + width]
        [plain] = decoder.generate(PROMPT, stop_strings=stop, **call)
        for length in (1, 3):
            options = {"stop_strings": stop, "draft": draft, "draft_length": length, **call}
            [found] = decoder.generate(PROMPT, **options)
            assert (found.text, found.token_ids) == (plain.text, plain.token_ids)
            assert found.finish_reason == plain.finish_reason
            assert "".join(decoder.stream(PROMPT, **options)) == plain.text
            reasons.add(found.finish_reason)
    assert reasons == {"stop"}


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
@pytest.mark.parametrize("draft", ["base", "arm | top_k(3)", "prompt"])
def test_logprobs(compiled, draft, mode) -> None:
    formula = "base + a*arm | repetition_penalty(1.3) | top_k(12)"
    decoder = compiled(formula, params={"a": 0.5}, draft=draft)
    call = {
        "max_new_tokens": 12, "logprobs": True, "top_logprobs": 3, "logprobs_mode": mode,
        "temperature": [0.0, 0.7, 1.3], "seed": [1, 2, 3], "params": {"a": [0.5, 0.0, 1.0]},
        "batch_size": 2,
    }  # fmt: skip
    prompts = ["the river", "a", "stone é"]
    plain = decoder.generate(prompts, **call)
    for length in (1, 4):
        found = decoder.generate(prompts, draft=draft, draft_length=length, **call)
        for row, one in zip(found, plain, strict=True):
            assert row.token_ids == one.token_ids
            assert row.logprobs == pytest.approx(one.logprobs, abs=5e-5)
            for top, best in zip(row.top_logprobs, one.top_logprobs, strict=True):
                assert [*top] == [*best]
                assert [*top.values()] == pytest.approx([*best.values()], abs=5e-5)


@pytest.mark.parametrize("length", [1, 3, 5])
def test_several_sequences_of_a_prompt_and_rows_as_they_end(compiled, length) -> None:
    decoder = compiled("base + a*arm", params={"a": 0.5}, draft="base")
    call = {
        "num_return_sequences": 3, "seed": 9, "temperature": 1.0, "max_new_tokens": 11,
        "eos_token_id": list(range(0, 300, 17)), "batch_size": 2,
    }  # fmt: skip
    prompts = ["the river", "a", "x = 1\n"]
    plain = decoder.generate(prompts, **call)
    found = dict(decoder.as_completed(prompts, draft="base", draft_length=length, **call))
    assert sorted(found) == list(range(9))
    for number, one in enumerate(plain):
        assert (found[number].token_ids, found[number].text) == (one.token_ids, one.text)
    assert len({len(one.token_ids) for one in plain}) > 2  # slots change hands midway


@pytest.mark.parametrize("draft", ["base", "prompt", "base + 0.5*arm"])
def test_pieces_of_a_stream_add_up(compiled, draft) -> None:
    decoder = compiled("base + 0.5*arm", draft=draft)
    for seed in range(3):
        call = {"seed": seed, "temperature": 0.9, "max_new_tokens": 15}
        [plain] = decoder.generate(PROMPT, **call)
        pieces = list(decoder.stream(PROMPT, draft=draft, draft_length=4, **call))
        assert "".join(pieces) == plain.text


@pytest.mark.parametrize("draft", ["l", "l + b", "prompt"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_models_of_other_vocabularies(draft, temperature) -> None:
    """They read several tokens, or none of their own, for one that is drafted."""
    made = {
        "l": vocabularies.llama_like(), "b": vocabularies.llama_like(),
        "q": vocabularies.qwen_like(), "u": vocabularies.unigram_like(),
    }  # fmt: skip
    models = {
        name: {"model": descant.TableModel(3 * table(seed, len(each))), "tokenizer": each}
        for seed, (name, each) in enumerate(made.items())
    }
    decoder = descant.compile("mix(0.5: l, 0.3: align(q), 0.2: align(u))", models)
    call = {"max_new_tokens": 14, "temperature": temperature, "seed": [1, 2, 3], "batch_size": 2}
    prompts = ["the river", "a", "the the stone stone the"]
    plain = decoder.generate(prompts, **call)
    for length in (1, 3):
        found = decoder.generate(prompts, draft=draft, draft_length=length, **call)
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
        assert [one.text for one in found] == [one.text for one in plain]


def test_rows_that_need_no_term_of_the_draft(compiled) -> None:
    """Where the coefficient of a term is 0, its model does not read the row."""
    decoder = compiled("base + a*arm", params={"a": 0.5}, draft="arm")
    call = {"max_new_tokens": 9, "params": {"a": [0.0, 1.0, 0.0, 0.5]}, "batch_size": 4}
    prompts = ["the river", "a", "stone é", "x = 1\n"]
    plain = decoder.generate(prompts, **call)
    found = decoder.generate(prompts, draft="arm", draft_length=3, **call)
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]


def test_a_parameter_in_the_draft(compiled) -> None:
    decoder = compiled("base + a*arm", params={"a": 0.5}, draft="a*base - arm")
    call = {"max_new_tokens": 9, "temperature": 0.9, "seed": 3}
    [plain] = decoder.generate(PROMPT, **call)
    [found] = decoder.generate(PROMPT, draft="a*base - arm", draft_length=3, **call)
    assert found.token_ids == plain.token_ids


def test_where_step_across_a_draft(compiled) -> None:
    formula, prompts = "where(step < n, base, arm)", ["the river", "a", "x = 1\n"]
    decoder = compiled(formula, params={"n": 3})
    call = {"max_new_tokens": 9, "params": {"n": [2, 5, 0]}, "eos_token_id": ()}
    plain = decoder.generate(prompts, **call)
    counted, found = stats(
        decoder, prompts, draft=formula, draft_length=3,
        **{key: value for key, value in call.items() if key != "eos_token_id"},
    )  # fmt: skip
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]
    assert counted.accepted == counted.drafted


def test_the_words_for_drafts_are_never_models() -> None:
    models = {"prompt": descant.TableModel(table(0)), "auto": descant.TableModel(table(1))}
    decoder = descant.compile("prompt + auto", models)
    [plain] = decoder.generate([3, 4, 3], max_new_tokens=9, temperature=1.0, seed=1)
    for draft in ("prompt", "auto"):
        [found] = decoder.generate(
            [3, 4, 3], draft=draft, max_new_tokens=9, temperature=1.0, seed=1
        )
        assert found.token_ids == plain.token_ids
    assert decoder.session_of("prompt").engine.bound.draft_plans == ()
    assert len(decoder.session_of("auto").engine.bound.draft_plans) == 2
