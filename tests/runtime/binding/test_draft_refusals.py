"""Drafts that cannot be are refused with the place, the problem and the cure."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import descant
from descant import FormulaError
from descant.errors import ArgumentError
from descant.runtime.binding.draft import refuse_draft

V = 17
MODELS = {
    "base": descant.TableModel.random(V, seed=0),
    "arm": descant.TableModel.random(V, seed=1),
    "far": descant.TableModel.random(V + 2, seed=2),
    "rm": descant.RuleReward.random(V, seed=3),
}


@pytest.fixture(scope="module")
def decoder() -> descant.Decoder:
    return descant.compile("mix(0.5: base, a: arm)", MODELS, params={"a": 0.5})


@pytest.mark.parametrize(
    ("draft", "carets", "problem", "cure"),
    [
        ("bas", "^^^", "bas is not declared", "did you mean base?"),
        ("base + 2*armm", "         ^^^^", "armm is not declared", "did you mean arm?"),
        ("base +", "     ^", "+ has nothing on its right", "write what it works on"),
        ("", "^", "the formula is empty", "write a formula"),
        ("base | best_of(rm, n=2)", "       ^^^^^^^^^^^^^^^^", "best_of chooses among texts",
         "leave best_of out"),
        ("base | blockwise(arm, beams=2, samples=2, length=4)", " " * 7 + "^" * 44,
         "blockwise chooses among texts", "leave blockwise out"),
        ("base | reject(rm, target=0.5)", " " * 7 + "^" * 22, "reject chooses among texts",
         "leave reject out"),
        ("base | rerank(rm, k=3)", "       ^^^^^^^^^^^^^^^", "rerank asks a reward model",
         "leave rerank out"),
        ("base | rerank(rm, k=3) | top_k(5)", "       ^^^^^^^^^^^^^^^",
         "rerank asks a reward model", "leave rerank out"),
        ("(base | rerank(rm)) + arm", "        ^^^^^^^^^^", "rerank asks a reward model",
         "leave rerank out"),
        ("base + rm", "       ^^", "rm is a reward model", "write … | rerank(rm"),
        ("base + far", "       ^^^", "far has 19 tokens and base has 17", "share one vocabulary"),
        ("far", "^^^", "far has 19 tokens and base has 17", "share one vocabulary"),
        ("align(far)", "^^^^^^^^^^", "is aligned", "leave align out"),
        ("base - base", "^^^^^^^^^^^", "cancels out", ""),
    ],
)  # fmt: skip
def test_a_draft_is_marked_in_its_own_text(decoder, draft, carets, problem, cure) -> None:
    with pytest.raises(FormulaError) as caught:
        decoder.generate([3], draft=draft)
    found = caught.value
    assert " " * found.span.start + "^" * (found.span.end - found.span.start) == carets
    assert problem in found.problem
    assert cure in str(found)
    assert draft in str(found)
    assert decoder.generate([3], max_new_tokens=2, draft="base")  # nothing is left behind


def test_an_aligned_model_drafts_for_no_other(decoder) -> None:
    with pytest.raises(FormulaError, match=r"tokenizer|vocabulary"):
        decoder.generate([3], draft="mix(0.5: base, 0.5: align(far))")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"draft": "base", "draft_length": 0}, "draft_length is 0; it is 1 to 64: leave draft out"),
        ({"draft": "base", "draft_length": 65}, "draft_length is 65; it is 1 to 64: give fewer"),
        ({"draft": "base", "draft_length": -1}, "draft_length is -1; it is 1 to 64"),
        ({"draft": "base", "draft_length": "x"}, "draft_length is 'x'; it is a whole number, or"),
        ({"draft": "base", "draft_length": 2.5}, "draft_length is 2.5; it is a whole number"),
        ({"draft": "base", "draft_length": True}, "draft_length is True; it is a whole number"),
        ({"draft_length": 3}, "draft_length says how many tokens draft proposes; give draft, too"),
        ({"draft": 3}, 'draft is 3; give a formula over the declared models, "prompt" or'),
        ({"draft": ["base"]}, "draft is ['base']; give a formula over the declared models"),
        ({"draft": False}, "draft is False; give a formula over the declared models"),
        ({"draft": "base", "sample_components": True}, "sample_components=True; leave one of them"),
        ({"draft": "prompt", "sample_components": True}, "a draft is verified by the whole mixt"),
        ({"draft": "auto", "sample_components": True}, "a draft is verified by the whole mixture"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_together(decoder, options, problem) -> None:
    for verb in (decoder.generate, decoder.stream, decoder.as_completed):
        with pytest.raises(ArgumentError, match=re.escape(problem)):
            list(verb([3], **options))


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"draft_lenght": 3}, "did you mean draft_length?"),
        ({"drft": "base"}, "did you mean draft?"),
        ({"assistant_model": "base"}, "draft="),
        ({"prompt_lookup_num_tokens": 10}, 'draft="prompt"'),
        ({"speculative_config": {}}, "draft="),
        ({"num_speculative_tokens": 5}, "it is called draft_length here"),
        ({"num_assistant_tokens": 5}, "it is called draft_length here"),
    ],
)
def test_other_names_of_drafts(decoder, options, cure) -> None:
    with pytest.raises(TypeError, match=re.escape(cure)):
        decoder.generate([3], **options)


def test_terms_in_parallel_have_no_draft(decoder) -> None:
    apart = replace(decoder._bound, term_parallel=object())
    with pytest.raises(ArgumentError, match="leave draft out, or parallel"):
        refuse_draft(apart)
