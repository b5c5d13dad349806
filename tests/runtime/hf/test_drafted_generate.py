"""``model.generate(…, custom_generate=decoder, draft=…)``: the tokens of a call without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import EOS, PAD, tokenizer
from generate_batches import PROMPTS, inputs
from transformers import LogitsProcessor, SynthIDTextWatermarkingConfig

import descant
from descant.runtime.loops import drafted_rows

FORMULA = "base + 0.5*arm - 0.25*arm2"
DRAFTS = ["base", "base + 0.5*arm | top_k(20)", "lora4", "prompt", "auto"]
GREEDY: dict[str, Any] = {}
SAMPLED = {"do_sample": True, "seed": 7, "temperature": 0.8, "top_k": 30, "top_p": 0.95}
PENALTY = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3}


@pytest.fixture(scope="module")
def base(zoo):
    return zoo.model("base")


@pytest.fixture
def decoder(compiled, base):
    return compiled(FORMULA, models={"base": base}, draft="lora4")


@pytest.mark.pages(rows=3)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("settings", [GREEDY, SAMPLED, SAMPLED | PENALTY])
@pytest.mark.parametrize("draft", DRAFTS)
def test_a_draft_changes_no_token(base, decoder, draft, settings, rows) -> None:
    given = inputs(PROMPTS[:rows])
    asked = {"custom_generate": decoder, "max_new_tokens": 24, "pad_token_id": PAD, **settings}
    plain = base.generate(**given, **asked)
    for length in (4, "adaptive"):
        found = base.generate(**given, **asked, draft=draft, draft_length=length)
        assert found.tolist() == plain.tolist()
        assert decoder.session.engine.stats.rounds or draft in ("prompt", "auto")


@pytest.mark.parametrize("draft", [None, *DRAFTS])
def test_a_watermark_of_transformers_is_its_own(base, compiled, draft) -> None:
    """``generate`` makes the processor for the call, and calls it once a token with every row."""
    config = SynthIDTextWatermarkingConfig(ngram_len=3, keys=[654, 400, 836, 123])
    asked = {"watermarking_config": config, "max_new_tokens": 16, "pad_token_id": PAD}
    expected = base.generate(**inputs(), **asked, do_sample=False)
    assert expected.tolist() != base.generate(**inputs(), max_new_tokens=16).tolist()
    decoder = compiled("base", models={"base": base}, draft="lora4 + arm")
    more = {"draft": draft.replace("base + 0.5*arm", "base")} if draft else {}
    for _ in range(2):
        found = base.generate(**inputs(), **asked, **more, do_sample=False, custom_generate=decoder)
        assert found.tolist() == expected.tolist()


def test_the_noise_of_drafts_is_that_of_the_rows(base, compiled) -> None:
    """A formula that drafts for itself is always right."""
    decoder = compiled("base", models={"base": base})
    asked = {"do_sample": True, "seed": 3, "temperature": 0.7, "top_k": 0, "max_new_tokens": 21}
    base.generate(
        **inputs(), custom_generate=decoder, **asked, eos_token_id=None, draft="base",
        draft_length=4,
    )  # fmt: skip
    stats = decoder.session.engine.stats
    assert (stats.rounds, stats.drafted, stats.accepted) == (4, 3 * 16, 3 * 16)
    assert "drafted     48 tokens in 4 rounds, 48 of them (100%) kept" in str(decoder.plan)


def test_what_stands_in_the_prompt_is_proposed(base, compiled) -> None:
    decoder = compiled("base", models={"base": base})
    asked = {"custom_generate": decoder, "max_new_tokens": 12, "eos_token_id": None}
    first = base.generate(**inputs(["the river"]), **asked)
    ids = torch.cat((first, first[:, :4]), dim=1)

    class Copied(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores[:, ids[0, input_ids.shape[1] - first.shape[1]]] = 1e9
            return scores

    asked = {**asked, "input_ids": ids, "logits_processor": [Copied()]}
    found = base.generate(**asked, draft="prompt", draft_length=3)
    assert found.tolist() == base.generate(**asked).tolist()
    base.generate(**asked, draft="prompt", draft_length=3)
    stats = decoder.session.engine.stats
    assert (stats.rounds, stats.accepted, stats.tokens) == (3, 9, 12)


@pytest.mark.parametrize("draft", ["base", "base + 0.5*arm - 0.25*arm2", "prompt"])
@pytest.mark.parametrize("ends", [True, False])
def test_rows_end_inside_a_draft(base, decoder, draft, ends, monkeypatch) -> None:
    monkeypatch.setattr(base.generation_config, "eos_token_id", None)
    given = inputs()
    asked = {"custom_generate": decoder, "max_new_tokens": 20, "pad_token_id": PAD}
    longest = base.generate(**given, **asked)
    length = given["input_ids"].shape[1]
    for at in (1, 2, 6, 9):
        eos = {"eos_token_id": [EOS, int(longest[1, length + at])]} if ends else {}
        plain = base.generate(**given, **asked, **eos)
        found = base.generate(**given, **asked, **eos, draft=draft, draft_length=4)
        assert found.tolist() == plain.tolist()


@pytest.mark.parametrize(
    "formula",
    [
        "base | rerank(rm, k=5, w=1.0)",
        "where(step < 3, mix(0.5: base, 0.5: arm), base) | repetition_penalty(1.3)",
        "base + 0.5*lora4 - 0.25*base@none | top_k(20)",
        "base + 0.5*align(other)",
    ],
)
@pytest.mark.parametrize("sampled", [False, True])
def test_every_formula_is_drafted(compiled, base, formula, sampled) -> None:
    decoder = compiled(formula, models={"base": {"model": base, "tokenizer": tokenizer()}})
    settings = {"do_sample": True, "top_k": 0, "seed": 7} if sampled else {}
    asked = {**inputs(), "custom_generate": decoder, "max_new_tokens": 12, **settings}
    plain = base.generate(**asked)
    for draft in ("base", "auto"):
        assert base.generate(**asked, draft=draft, draft_length=3).tolist() == plain.tolist()


def test_outputs_are_those_of_every_token(base, decoder) -> None:
    asked = {
        **inputs(), "custom_generate": decoder, "max_new_tokens": 12, "bad_words_ids": [[144]],
        "return_dict_in_generate": True, "output_scores": True, "output_logits": True,
    }  # fmt: skip
    plain, found = base.generate(**asked), base.generate(**asked, draft="base", draft_length=3)
    assert found.sequences.tolist() == plain.sequences.tolist()
    for kind in ("scores", "logits"):
        assert len(found[kind]) == len(plain[kind])
        for mine, other in zip(found[kind], plain[kind], strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("formula", [FORMULA, "base | rerank(rm, k=3, w=2.0)"])
def test_a_token_that_nobody_would_draft_may_be_forced(compiled, base, formula) -> None:
    decoder = compiled(formula, models={"base": base})

    class Forced(LogitsProcessor):
        def __call__(self, input_ids, scores):
            if input_ids.shape[1] % 3 == 0:
                scores[:, 55] = 1e9
            return scores

    asked = {**inputs(), "custom_generate": decoder, "max_new_tokens": 14}
    plain = base.generate(**asked, logits_processor=[Forced()])
    assert 55 in plain[0].tolist()
    found = base.generate(**asked, logits_processor=[Forced()], draft="base", draft_length=4)
    assert found.tolist() == plain.tolist()
    warm = {"do_sample": True, "top_k": 0, "seed": 3, "logits_processor": [Forced()]}
    drafted = base.generate(**asked, **warm, draft="base", draft_length=4)
    assert drafted.tolist() == base.generate(**asked, **warm).tolist()


@pytest.mark.parametrize("draft", ["base", "prompt"])
def test_a_search_is_drafted(compiled, base, draft) -> None:
    decoder = compiled("base + 0.5*arm | best_of(rm, n=3)", models={"base": base})
    drawing = {"do_sample": True, "top_k": 0, "temperature": 0.7, "seed": 3}
    asked = {**inputs(), "custom_generate": decoder, "max_new_tokens": 9, "pad_token_id": PAD}
    plain = base.generate(**asked, **drawing)
    assert base.generate(**asked, **drawing, draft=draft, draft_length=3).tolist() == plain.tolist()


def test_a_draft_without_room_is_left_out(base, decoder, monkeypatch) -> None:
    """As where every page is taken: here each second draft finds none."""
    asked = {**inputs(), "custom_generate": decoder, "max_new_tokens": 20, "eos_token_id": None}
    plain, calls = base.generate(**asked), iter(range(99))
    monkeypatch.setattr(drafted_rows, "extend", lambda *_: {0: 1} if next(calls) % 2 else {})
    found = base.generate(**asked, draft="base", draft_length=3)
    assert found.tolist() == plain.tolist()
    assert next(calls) > decoder.session.engine.stats.rounds > 1


def test_drafts_that_cannot_be_are_refused(base, decoder) -> None:
    asked = {**inputs(), "custom_generate": decoder, "max_new_tokens": 4}
    with pytest.raises(descant.FormulaError, match="did you mean arm"):
        base.generate(**asked, draft="armm")
    with pytest.raises(ValueError, match="give draft, too"):
        base.generate(**asked, draft_length=3)
    with pytest.raises(ValueError, match="draft_length is 0"):
        base.generate(**asked, draft="base", draft_length=0)
