"""Steps over states that are recorded: a replay is the step, whoever comes and goes."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_architectures as families
from tape import Tape, on_tape

import descant

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 50, 7, 91, 13], [1, 9, 9], [1, 60, 61]]


@pytest.mark.parametrize("family", ["qwen3_next", "falcon_h1", "mamba2"])
@pytest.mark.parametrize(
    "formula", ["base + 0.5*arm", "where(entropy(base) > 3, base + arm, base)", "base @ draft"]
)
def test_a_replay_is_the_step(family, formula, monkeypatch) -> None:
    models = {"base": families.model(family), "arm": families.model(family, seed=1)}
    settings: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.8, "seed": 2}
    settings |= {"batch_size": 3, "eos_token_id": [*range(0, 97, 9)], "progress": False}
    if drafted := formula.endswith("draft"):
        formula, settings = "base + 0.5*arm", settings | {"draft": "base", "draft_length": 3}
    plain = descant.compile(formula, models, capture=False)
    expected = [one.token_ids for one in plain.generate(PROMPTS, **settings)]
    decoder = on_tape(monkeypatch)(descant.compile(formula, models, capture=True))
    for _ in range(2):
        assert [one.token_ids for one in decoder.generate(PROMPTS, **settings)] == expected
    forwards = [lane.recordings.made for lane in decoder.session.bound.lanes]
    assert drafted or all(forwards)
    assert sum(tape.replays for tape in Tape.made) > len(Tape.made) > 0
