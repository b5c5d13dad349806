"""Log-probabilities of drawn tokens, for every formula: those that scoring the answer gives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from interpreter import PARAMS
from random_formulas import formulas, linear
from test_laws import UNDEFINED, V, compiled, law, params, texts

from descant import FormulaError

HEATS = [0.0, 0.5, 1.0, 3.0]


@law
@given(linear | formulas, params, texts, st.integers(0, 2**40))
def test_they_are_those_of_loglikelihood_at_every_temperature(tree, values, prompt, seed) -> None:
    """With the formula's own stages, and nothing that the request asks for."""
    decoder = compiled(tree)
    assert set(values) == set(PARAMS)
    try:
        rows = decoder.generate(
            [prompt] * len(HEATS), temperature=HEATS, seed=[seed] * len(HEATS), max_new_tokens=4,
            params=values, logprobs=True, top_logprobs=V, eos_token_id=(),
        )  # fmt: skip
    except FormulaError as error:
        assume(not any(said in error.problem for said in UNDEFINED))
        assume("every token is excluded" not in error.problem)
        raise
    ids = [row.token_ids for row in rows]
    scored = decoder.loglikelihood([prompt] * len(HEATS), ids, params=values)
    for row, one in zip(rows, scored, strict=True):
        assert row.logprobs == pytest.approx(one.logprobs, abs=2e-4, rel=1e-4)
        scores = decoder.scores(prompt, row.token_ids[:-1], params=values)
        for place, best in enumerate(row.top_logprobs):
            logprobs = torch.log_softmax(scores[place], dim=-1)
            kept = logprobs[logprobs > -math.inf]
            assert sorted(best) == logprobs.isfinite().nonzero()[:, 0].tolist()
            expected = kept.sort(descending=True).values.tolist()
            assert [*best.values()] == pytest.approx(expected, abs=2e-4, rel=1e-4)
            assert best[row.token_ids[place]] == row.logprobs[place]
