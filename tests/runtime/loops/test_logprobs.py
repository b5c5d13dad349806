"""Log-probabilities of drawn tokens: of the formula, or of what they were drawn from."""

from __future__ import annotations

import pytest
import torch

FORMULA = "base + a*arm | top_k(20)"
PROMPTS = ["the river", "the sea", "one two"]
HEATS = (0.0, 0.7, 1.3)


@pytest.fixture(scope="module")
def decoder(compiled):
    return compiled(FORMULA, params={"a": 0.5})


def drawn(decoder, **more):
    settings = {"temperature": list(HEATS), "seed": 1, "max_new_tokens": 6, "eos_token_id": ()}
    return decoder.generate(PROMPTS, **settings, logprobs=True, **more)


def test_the_formulas_own_are_before_the_temperature(decoder) -> None:
    for row in drawn(decoder):
        [scored] = decoder.loglikelihood(row.prompt, [row.token_ids])
        assert row.logprobs == pytest.approx(scored.logprobs, abs=1e-4)
        assert row.top_logprobs is None and all(value < 0 for value in row.logprobs)


def test_processed_ones_are_of_what_was_drawn_from(decoder) -> None:
    rows = drawn(decoder, logprobs_mode="processed_logprobs", top_logprobs=3)
    assert rows[0].logprobs == [0.0] * 6  # nothing else could be drawn
    assert rows[0].top_logprobs == [{token: 0.0} for token in rows[0].token_ids]
    for row, heat in zip(rows[1:], HEATS[1:], strict=True):
        scores = decoder.scores(row.prompt, row.token_ids[:-1]) / heat
        expected = torch.log_softmax(scores, dim=-1)
        for place, token in enumerate(row.token_ids):
            assert row.logprobs[place] == pytest.approx(float(expected[place, token]), abs=1e-4)
            best = expected[place].topk(3)
            assert [*row.top_logprobs[place]] == best.indices.tolist()
            values = [*row.top_logprobs[place].values()]
            assert values == pytest.approx(best.values.tolist(), abs=1e-4)


def test_nothing_else_changes_with_them(decoder) -> None:
    settings = {"temperature": list(HEATS), "seed": 1, "max_new_tokens": 6, "eos_token_id": ()}
    plain = decoder.generate(PROMPTS, **settings)
    assert [row.logprobs for row in plain] == [None] * 3
    for more in ({}, {"top_logprobs": 4}, {"logprobs_mode": "processed_logprobs"}):
        rows = drawn(decoder, batch_size=2, **more)
        assert [row.token_ids for row in rows] == [row.token_ids for row in plain]


def test_rows_of_one_batch_ask_for_different_ones(decoder) -> None:
    """Each gets what it gets alone."""
    builder = decoder.session.builder
    asked = [
        {"logprobs": True}, {"logprobs": True, "top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 5, "logprobs_mode": "processed_logprobs"}, {},
    ]  # fmt: skip
    alone = [
        decoder.generate("the river", temperature=0.8, seed=3, max_new_tokens=5, **each)[0]
        for each in asked
    ]
    requests = [
        builder.requests("the river", temperature=0.8, seed=3, max_new_tokens=5, **each)[0]
        for each in asked
    ]
    ended = [
        answer
        for answers in decoder.session.decode(requests, len(requests))
        for answer in answers
        if answer.finish_reason
    ]
    assert len(ended) == len(asked)
    for answer in ended:
        found = answer.completion(0.0)
        want = alone[next(i for i, request in enumerate(requests) if request is answer.request)]
        assert found.token_ids == want.token_ids
        assert (found.logprobs is None) == (want.logprobs is None)
        if want.logprobs is not None:
            assert found.logprobs == pytest.approx(want.logprobs, abs=1e-5)
        assert (found.top_logprobs is None) == (want.top_logprobs is None)
        for own, other in zip(found.top_logprobs or (), want.top_logprobs or (), strict=True):
            assert own == pytest.approx(other, abs=1e-5)
