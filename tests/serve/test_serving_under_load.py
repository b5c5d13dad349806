"""The load test of ``bench.serving``, small: every answer is the offline one, and none is lost."""

from __future__ import annotations

import asyncio

import pytest

from bench.serving import Received, Sent, correctness, drive, offline, requests


@pytest.mark.slow
def test_many_clients_of_whom_some_leave(served, run_file) -> None:
    asked = requests(64, leaving=0.15)
    got = asyncio.run(drive(served.url, asked, clients=16))[0]
    found = correctness(asked, got, offline(run_file, asked))
    assert found["left"] >= 4 and found["left"] == found["left_equal_so_far"]
    assert found["answers"] == found["equal"] == 64 - found["left"]
    served.wait(served.idle)
    assert served.metric("descant_num_requests_waiting") == 0 and not served.server.link._streams


def test_the_judge_sees_what_is_wrong_and_what_is_lost() -> None:
    asked = [Sent("base", "x", 0.0, 0.0, i, 2, True, leaves) for i, leaves in enumerate([None] * 3)]
    asked.append(Sent("base", "x", 0.0, 0.0, 3, 2, True, 1))
    got = [Received([1, 2], ended=True), Received([1, 3], ended=True), Received([1]), Received([2])]
    assert correctness(asked, got, [[1, 2]] * 4) == {
        "requests": 4, "answers": 2, "equal": 1, "left": 1, "left_equal_so_far": 0,
    }  # fmt: skip
