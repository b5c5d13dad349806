"""What a round of drafting gives a GPU: forwards are replayed, and the host waits once, at last."""

from __future__ import annotations

from functools import cache

import pytest

from rehearsal import Rehearsal, Step
from rehearsal.formulas import models

LENGTH = 4
FORMULAS = {
    "sum": ("m + 0.5*x", 2),
    "LoRA rows": ("m + 0.5*a + 0.5*b", 1),
    "rerank": ("m | rerank(r, k=5, w=1.5)", 1),
}


@cache
def rehearsed(formula: str) -> list[Step]:
    """Six rounds of two rows: in the first, the draft's forwards are recorded."""
    with Rehearsal() as gpu:
        decoder = gpu.compile(formula, models(gpu), capture=True)
        settings = {"temperature": 0.7, "draft": "m", "draft_length": LENGTH}
        steps = gpu.steps(decoder, (40, 60), 6, room=256, **settings)
        stats = decoder.session.engine.stats
        assert (stats.rounds, stats.drafted) == (6, 6 * 2 * LENGTH)
        return steps


@pytest.mark.parametrize("name", FORMULAS)
def test_a_round_copies_to_the_host_once_and_waits_for_nothing_within(name) -> None:
    formula, _ = FORMULAS[name]
    for step in rehearsed(formula)[1:]:
        assert (len(step.h2d), len(step.d2h), len(step.waits)) == (1, 1, 0)
        assert len(step.stalls) == 1  # the next draft follows what was drawn


@pytest.mark.parametrize("name", FORMULAS)
def test_forwards_of_language_models_are_replayed(name) -> None:
    """Those of the draft, one for each token and one more, and one of each other model."""
    formula, models_of_it = FORMULAS[name]
    for step in rehearsed(formula)[2:]:
        assert step.mode == "replayed"
        assert step.replayed == LENGTH + models_of_it
