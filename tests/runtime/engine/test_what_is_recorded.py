"""What the plan says of recordings, and how many there are."""

from __future__ import annotations

import pytest
import torch
from tape import Tape, on_tape
from transformers import MinLengthLogitsProcessor

import descant

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7]]
SETTINGS = {"max_new_tokens": 6, "eos_token_id": []}


@pytest.fixture
def taped(monkeypatch, compiled):
    """Compile a formula whose steps are recorded on tapes."""
    live = on_tape(monkeypatch)
    return lambda formula, **options: live(compiled(formula, **options))


def test_recordings_are_counted(taped) -> None:
    decoder = taped("base + 0.5*arm")
    graphs = decoder.session.engine.graphs
    assert graphs.made == 0
    decoder.generate(PROMPTS, **SETTINGS)
    assert graphs.made == len(Tape.made) == 3
    decoder.generate(PROMPTS, **SETTINGS)
    assert graphs.made == 3 and graphs.eager() == []
    assert graphs.lines() == [
        "recorded as CUDA graphs: the forwards of base, arm; scores, stages and draws"
    ]


def test_what_could_not_be_replayed_is_said(taped, monkeypatch) -> None:
    replay = Tape.replay

    def planted(self):
        replay(self)
        self._tape[-1][1][0].add_(1)

    monkeypatch.setattr(Tape, "replay", planted)
    decoder = taped("base")
    decoder.generate(PROMPTS, **SETTINGS)
    why = "a replay gives other numbers than the eager step"
    expected = [
        f"the forward of base is eager: {why}",
        f"scores, stages and draws are eager: {why}",
    ]
    graphs = decoder.session.engine.graphs
    assert graphs.lines() == graphs.eager() == expected


def test_capture_that_is_off_is_said(taped) -> None:
    graphs = taped("base", capture=False).session.engine.graphs
    assert graphs.lines() == ["eager: capture is off"]
    assert graphs.eager() == ["capture is off"] and graphs.made == 0


@pytest.mark.parametrize("where", ["base | early()", "(base | early()) + 0.5*arm"])
def test_a_logits_processor_is_called_at_every_step(taped, compiled, where) -> None:
    """What it does by the length of a text, a recording would do by that of the first; and idle
    slots, of which three rows have one, have no text."""
    descant.logits_processor("early", MinLengthLogitsProcessor(12, [*range(0, 300, 2)]))
    settings = SETTINGS | {"max_new_tokens": 16}
    expected = compiled(where, capture=False).generate(PROMPTS[:3], **settings)
    assert any(token % 2 == 0 for one in expected for token in one.token_ids)
    decoder = taped(where)
    for _ in range(2):
        found = decoder.generate(PROMPTS[:3], **settings)
        assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    graphs = decoder.session.engine.graphs
    assert graphs.why_eager == "early is called on the host, row by row"
    assert "scores, stages and draws are eager: early is called on the host" in graphs.lines()[-1]


@pytest.mark.parametrize(
    "formula",
    [
        "contrast(base, arm, strength=a) + 0.5*base",
        "contrast(base, contrast(arm, base), strength=entropy(base)) | top_k(20)",
        "where(entropy(base) > 4, contrast(base, arm), arm)",
    ],
)
def test_an_operator_of_ones_own_is_recorded(taped, compiled, formula) -> None:
    """Of what it does, the operations alone come again, with each row's numbers."""
    calls = []

    @descant.operator
    def contrast(x, y, strength=1.0):
        calls.append(len(x))
        return x + strength * (x - y)

    params = {"a": 1.0}
    settings = SETTINGS | {"max_new_tokens": 16, "params": {"a": [0.5, 2.0, -1.0]}}
    settings |= {"temperature": 1.0, "seed": [1, 2, 3]}
    if "a)" not in formula:
        settings["params"], params = {}, {}
    plain = compiled(formula, params=params, capture=False).generate(PROMPTS, **settings)
    decoder = taped(formula, params=params)
    for _ in range(2):
        calls.clear()
        found = decoder.generate(PROMPTS, **settings)
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
    assert calls == []  # in the second call, every step is a replay
    graphs = decoder.session.engine.graphs
    assert graphs.eager() == [] and graphs.why_eager is None


def test_a_state_is_kept_by_eager_steps(taped, compiled) -> None:
    """Three rows have four slots, and the idle one has no state."""
    seen: list[int] = []

    @descant.operator(state=lambda: torch.zeros(()))
    def rising(x, y, *, state):
        assert len(x) == len(state)
        seen.append(len(x))
        return x + 0.3 * state[:, None] * y, state + 1

    @descant.operator
    def placed(x, *, ids, start):
        drawn = torch.tensor([[len(text) - at] for text, at in zip(ids, start, strict=True)])
        return x * (1 + drawn % 3)

    seen.clear()
    for formula in ("rising(base, arm)", "placed(base) + arm"):
        expected = compiled(formula, capture=False).generate(PROMPTS, **SETTINGS)
        decoder = taped(formula)
        for _ in range(2):
            found = decoder.generate(PROMPTS, **SETTINGS)
            assert [one.token_ids for one in found] == [one.token_ids for one in expected]
        graphs = decoder.session.engine.graphs
        name = formula.partition("(")[0]
        assert set(seen) == {3}
        assert graphs.why_eager == f"{name} looks at each row's own text or state"
        assert graphs.lines()[0] == "recorded as CUDA graphs: the forwards of base, arm"


def test_an_operator_that_asks_the_device_is_not_recorded(taped, compiled) -> None:
    @descant.operator
    def asks(x, y):
        return x + y if bool((x <= 0).any()) else x

    expected = compiled("asks(base, arm)", capture=False).generate(PROMPTS, **SETTINGS)
    decoder = taped("asks(base, arm)")
    found = decoder.generate(PROMPTS, **SETTINGS)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert "cannot be recorded" in decoder.session.engine.graphs.why_eager
