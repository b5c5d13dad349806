"""The benchmark of likelihoods asks both for the same, and both give the same."""

import pytest

pytest.importorskip("lm_eval")

from bench.likelihood import REPLIES, WHOLE, measure, requests


def test_both_are_asked_for_the_same() -> None:
    found = measure("tiny", 1, short=10)
    assert list(found) == list(requests(100, 1)) and len(found) == 4
    for one in found.values():
        assert one["apart"] < 1e-4 and one["hf"] > 0 and one["ours"] > 0


def test_requests_are_as_long_as_they_are_called() -> None:
    asked = requests(100, 1)
    prompt, reply = asked[REPLIES][1][0].args
    assert (len(prompt.split()), len(reply.split())) == (20, 60)
    assert len({one.args[0] for one in asked[REPLIES][1]}) == 12
    assert {len(one.args[0].split()) for one in asked[WHOLE][1]} == {115}
