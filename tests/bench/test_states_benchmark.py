"""The benchmark of states holds what the plan says that caches take against what is allocated."""

from __future__ import annotations

import pytest

from bench import states
from bench.steps import WARM


@pytest.mark.parametrize("family", [*states.FAMILIES])
def test_the_plan_says_what_is_allocated(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"vocab_size": 99, "hidden_size": 512, "intermediate_size": 64}
    monkeypatch.setattr(states, "SIZES", states.SIZES | small)
    monkeypatch.setattr(states, "STEPS", 6)
    found = states.measure(family, batch=2, runs=1)
    assert found["plan_bytes"] == found["allocated_bytes"] > 0
    assert len(found["pairs"]) == 6 - WARM
