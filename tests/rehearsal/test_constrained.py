"""The masks of a constrained step, on a GPU: made while the device works, and sent in one copy."""

from __future__ import annotations

from typing import Any

import pytest

from descant.runtime.constraints.masks import Masks
from rehearsal import Rehearsal
from rehearsal.formulas import models

FORMULAS = [
    'm + 0.5*x | regex("[a-z ]*[.]") | choice("one", "two") | rerank(r, k=5)',
    '(m | regex("[a-z ]*[.]")) + 0.5*a',
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_forwards_are_under_way_before_the_host_makes_masks(formula, monkeypatch) -> None:
    """They wait for the tokens of the last step, and for nothing that was launched since."""
    launched: list[list[str]] = []
    original = Masks._fill
    with Rehearsal() as gpu:

        def fill(self: Any, *arrays: Any) -> None:
            launched.append([launch.name for launch in gpu.device.step.launches])
            original(self, *arrays)

        monkeypatch.setattr(Masks, "_fill", fill)
        decoder = gpu.compile(formula, models(gpu), capture=True)
        steps = gpu.steps(decoder, (40, 60), 4, room=256, temperature=0.7)
        plan = str(decoder.plan)
    assert len(launched) == len(steps) == 4  # all constraints of all rows in one go
    for before, step in zip(launched, steps, strict=True):
        assert (len(step.h2d), len(step.d2h), len(step.waits), len(step.stalls)) == (1, 1, 0, 0)
        attends = [launch.name for launch in step.launches].count("descant::live_attention")
        of_rewards = attends - before.count("descant::live_attention")
        assert before and of_rewards in (0, attends // 3)
    assert [step.mode for step in steps] == ["eager", "recorded", "replayed", "replayed"]
    assert "masks that the host makes" in plan and "recorded as CUDA graphs: the forward" in plan
