"""What a step may give a GPU, whatever the formula: rules that hold on any machine."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest

from descant.models.kernels import gpu as kernels
from rehearsal import Rehearsal, Step
from rehearsal.formulas import FORMULAS, SEARCHES, WHERE, models

LAYER, PLAIN_LAYER = 10, 41  # launches of a layer of Llama, and by transformers' code


@cache
def rehearsed(formula: str) -> list[Step]:
    """Four steps of two rows: an eager one, one that is recorded, and replays."""
    lengths = ("one", "two three") if '"' in formula else (40, 60)
    with Rehearsal() as gpu:
        decoder = gpu.compile(formula, models(gpu), capture=True)
        return gpu.steps(decoder, lengths, 4, room=256, temperature=0.7)


def named(formulas: dict[str, str], *marks: Any) -> list[Any]:
    return [pytest.param(text, id=name, marks=marks) for name, text in formulas.items()]


@pytest.mark.parametrize("formula", named({**FORMULAS, **WHERE, **SEARCHES}))
def test_a_step_copies_its_tokens_once_and_waits_for_nothing(formula) -> None:
    for step in rehearsed(formula):
        assert (len(step.h2d), len(step.d2h), len(step.waits)) == (0, 1, 0)
        assert step.launches


@pytest.mark.parametrize("formula", named({**FORMULAS, **WHERE, **SEARCHES}))
def test_a_step_is_recorded(formula) -> None:
    """Nothing in it is forbidden while a graph is recorded, and a replay does what it did."""
    steps = rehearsed(formula)
    assert [step.mode for step in steps] == ["eager", "recorded", "replayed", "replayed"]
    eager, *others = (Counter(launch.name for launch in step.launches) for step in steps)
    assert others == [others[0]] * 3
    first = {"zeros", "zero_", "fill_", "new_zeros"}  # memory that stays, once
    assert set(eager - others[0]) <= first and not others[0] - eager


@pytest.mark.parametrize("formula", named({**FORMULAS, **WHERE}))
def test_the_next_step_is_under_way_before_the_last_is_collected(formula) -> None:
    stalls = [len(step.stalls) for step in rehearsed(formula)]
    assert stalls == ([1] * 4 if "align" in formula else [0] * 4)  # the host feeds that the rest


@pytest.mark.parametrize("disabled", ["", "layers"])
def test_launches_of_a_layer(disabled, monkeypatch) -> None:
    monkeypatch.setattr(kernels, "_disabled", lambda: frozenset({disabled}))
    said = "in transformers' code, for DESCANT_DISABLE_KERNELS names layers"

    def launches(layers: int) -> int:
        with Rehearsal() as gpu:
            model = gpu.language_model("tiny", layers=layers)
            decoder = gpu.compile("m", {"m": model}, capture=False)
            assert f"layers      m: {said if disabled else 'in few launches'}" in str(decoder.plan)
            return len(gpu.steps(decoder, [40, 60], 1, room=256)[0].launches)

    assert launches(4) - launches(2) == 2 * (PLAIN_LAYER if disabled else LAYER)


def test_a_run_of_512_tokens_has_one_recording_and_the_next_has_none() -> None:
    with Rehearsal() as gpu:
        decoder = gpu.compile("m", {"m": gpu.language_model("tiny")}, capture=True)
        modes = [step.mode for step in gpu.run(decoder, [30], 512)]
        assert modes == ["eager", "recorded", *["replayed"] * 510]
        assert {step.mode for step in gpu.run(decoder, [30], 64)} == {"replayed"}


@pytest.mark.parametrize("formula", named(FORMULAS))
def test_launches_of_our_own_say_how_many_blocks_they_have(formula) -> None:
    """Of a kernel that leaves most of a GPU idle, bytes and arithmetic do not tell the time."""
    for launch in rehearsed(formula)[0].launches:
        if launch.name.startswith("descant::"):
            assert launch.blocks, launch


FROM_LOGITS = {  # launches from the logits to what the host gets
    "one model": ("m", 2),
    "adapters": ("m + 0.5*a + 0.5*b", 2),
    "three models": ("m + 0.5*x - 0.5*y", 2),
    "stages": ("m + 0.5*x | top_k(40) | top_p(0.9) | temperature(0.7)", 4),
    "scores": ("mix(0.5: m, 0.5: x) | min_p(0.1)", 4),
}


@pytest.mark.parametrize(("formula", "launches"), FROM_LOGITS.values(), ids=FROM_LOGITS)
def test_a_draw_is_few_launches(formula, launches) -> None:
    for step in rehearsed(formula):
        own = [launch for launch in step.launches if launch.name == "descant::draw_sum"]
        assert len(own) == launches and all(launch.blocks for launch in own)
        assert not [launch for launch in step.launches if "noise" in launch.place]
        if "mix" not in formula:
            runtime = [launch for launch in step.launches if ".runtime." in launch.place]
            assert len(runtime) <= len(own) + 6  # it feeds the lanes, and keeps the results


@pytest.mark.parametrize("formula", named({"adapters": "m + 0.5*a + 0.5*b", "sum": "m + 0.5*x"}))
def test_weights_are_read_once(formula) -> None:
    """By all rows of a lane; and all of them, which says that the harness counts them."""
    step = rehearsed(formula)[0]
    read = sum(launch.weights for launch in step.launches)
    assert 0.98 * step.weights <= read <= 1.02 * step.weights


def test_the_host_knows_which_components_run() -> None:
    """Nothing is uploaded, and nobody waits; a step reads the weights of what it runs."""
    with Rehearsal() as gpu:
        decoder = gpu.compile("mix(0.5: m, 0.5: x)", models(gpu), capture=True)
        steps = gpu.steps(decoder, [40], 24, room=256, sample_components=True, seed=3)
    modes = [step.mode for step in steps]
    assert modes[:1] == ["eager"] and modes.count("recorded") >= 2
    assert {step.mode for step in steps[-6:]} == {"replayed"}
    for step in steps:
        assert (len(step.h2d), len(step.d2h), len(step.waits)) == (0, 1, 0)
        assert not step.stalls
