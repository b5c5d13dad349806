"""What a step may give a GPU, whatever the formula: rules that hold on any machine."""

from __future__ import annotations

from typing import Any

import pytest
from rehearsal import Rehearsal, Step
from rehearsal.formulas import FORMULAS, SEARCHES, WHERE, models

LAYER = 42  # launches of a layer of Llama
ALL = {**FORMULAS, **WHERE, **SEARCHES}
TOLERATED = pytest.mark.xfail(strict=True, raises=AssertionError, reason="where asks the device which models are needed")


def rehearsed(formula: str, count: int = 4, lengths: Any = (40, 60), **options: Any) -> list[Step]:
    with Rehearsal() as gpu:
        decoder = gpu.compile(formula, models(gpu, formula), **options)
        return gpu.steps(decoder, lengths, count, room=256, temperature=0.7)


def named(formulas: dict[str, str], *marks: Any) -> list[Any]:
    return [pytest.param(text, id=name, marks=marks) for name, text in formulas.items()]


@pytest.mark.parametrize("formula", named({**FORMULAS, **SEARCHES}) + named(WHERE, TOLERATED))
def test_a_step_copies_its_tokens_once_and_waits_for_nothing(formula) -> None:
    for step in rehearsed(formula, capture=False):
        assert (len(step.h2d), len(step.d2h), len(step.waits)) == (0, 1, 0)
        assert step.mode == "eager" and step.launches


@pytest.mark.parametrize("formula", named({**FORMULAS, **SEARCHES}) + named(WHERE, TOLERATED))
def test_a_step_is_recorded(formula) -> None:
    """Nothing in it is forbidden while a graph is recorded, and a replay gives what it gives."""
    eager = rehearsed(formula, 1, capture=False)
    steps = rehearsed(formula, 4, capture=True)
    assert [step.mode for step in steps][-2:] == ["replayed", "replayed"]
    assert "recorded" in [step.mode for step in steps]
    assert len(steps[-1].launches) == len(eager[0].launches)
    assert (len(steps[-1].h2d), len(steps[-1].d2h), len(steps[-1].waits)) == (0, 1, 0)


@pytest.mark.parametrize("formula", named(FORMULAS))
def test_the_next_step_is_under_way_before_the_last_is_collected(formula) -> None:
    stalls = [len(step.stalls) for step in rehearsed(formula, 2)]
    assert stalls == ([1, 1] if "align" in formula else [0, 0])  # the host feeds that the rest


def test_launches_of_a_layer() -> None:
    def launches(layers: int) -> int:
        with Rehearsal() as gpu:
            model = gpu.language_model("tiny", layers=layers)
            decoder = gpu.compile("m", {"m": model}, capture=False)
            return len(gpu.steps(decoder, [40, 60], 1, room=256)[0].launches)

    assert launches(4) - launches(2) <= 2 * LAYER


def test_a_recording_is_made_once_in_a_run() -> None:
    with Rehearsal() as gpu:
        decoder = gpu.compile("m + 0.5*x", models(gpu, "m + 0.5*x"), capture=True)
        first = [step.mode for step in gpu.run(decoder, [30], 100)]
        assert first.count("recorded") <= 5  # each time that more of the caches is seen


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="a recording for every 32 tokens")
def test_a_run_of_512_tokens_has_one_recording_and_the_next_has_none() -> None:
    with Rehearsal() as gpu:
        decoder = gpu.compile("m", {"m": gpu.language_model("tiny")}, capture=True)
        modes = [step.mode for step in gpu.run(decoder, [30], 512)]
        assert modes == ["eager", "recorded", *["replayed"] * 510]
        assert {step.mode for step in gpu.run(decoder, [30], 64)} == {"replayed"}


def test_all_launches_of_our_own_say_how_many_blocks_they_have() -> None:
    """Fewer than a GPU has processors is too few to read caches at its bandwidth."""
    for step in rehearsed("m + 0.5*x", 1, capture=False):
        for launch in step.launches:
            if launch.name.startswith("descant::"):
                assert launch.blocks


def test_a_harness_that_counts_nothing_would_be_seen() -> None:
    """Weights are read once by a step, and all of them."""
    [step] = rehearsed("m + 0.5*a + 0.5*b", 1, capture=False)
    read = sum(launch.weights for launch in step.launches)
    assert 0.98 * step.weights <= read <= 1.02 * step.weights
