"""A draft changes no token, whatever drafts for whatever: formulas at random, over tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from interpreter import MODELS
from random_formulas import formulas, linear
from test_laws import UNDEFINED, compiled, law, params, texts

import descant
from descant import FormulaError
from descant.grammar import Node, text

HEATS = [0.0, 0.7, 1.0]


def outcome(decoder: descant.Decoder, prompt: list[int], **options: Any) -> Any:
    """The tokens and log-probabilities of a call, or what it says is wrong."""
    try:
        rows = decoder.generate(
            [prompt, prompt[:1], prompt], temperature=HEATS, max_new_tokens=8, batch_size=2,
            logprobs=True, top_logprobs=2, eos_token_id=(), **options,
        )  # fmt: skip
    except FormulaError as error:
        assume(not any(said in error.problem for said in UNDEFINED))
        return error.problem
    return rows


def same(found: Any, expected: Any) -> None:
    """The same tokens and log-probabilities, or the same error in the same place."""
    if isinstance(expected, str):
        assert found == expected
        return
    assert [row.token_ids for row in found] == [row.token_ids for row in expected]
    for row, one in zip(found, expected, strict=True):
        assert row.logprobs == pytest.approx(one.logprobs, abs=1e-5, rel=1e-5)
        for top, best in zip(row.top_logprobs, one.top_logprobs, strict=True):
            assert [*top.values()] == pytest.approx([*best.values()], abs=1e-5, rel=1e-5)


def cheap(tree: Node) -> bool:
    """Whether a formula may draft: it asks no reward model."""
    return "rerank" not in text(tree)


trees = linear | formulas
drafts = trees.filter(cheap).map(text) | st.sampled_from([*MODELS, "prompt"])


@law
@given(trees, drafts, params, texts, st.integers(1, 8), st.integers(0, 2**40))
def test_a_draft_changes_no_token(tree, draft, values, prompt, length, seed) -> None:
    decoder = compiled(tree)
    seeds = [seed, seed + 1, seed]
    plain = outcome(decoder, prompt, params=values, seed=seeds)
    drafted = outcome(decoder, prompt, params=values, seed=seeds, draft=draft, draft_length=length)
    same(drafted, plain)
