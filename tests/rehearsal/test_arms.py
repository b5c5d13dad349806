"""What adapters of a step cost on a GPU: two launches for modules that read one input, by count."""

from __future__ import annotations

from functools import cache

import pytest

from rehearsal import Rehearsal, Step

LAYERS, RANK, SIZE, KEYS = 2, 16, 4096, 1024  # of an 8B Llama


@cache
def step(arms: int, loaded: int, rows: int = 1, disabled: str = "") -> Step:
    """A replayed step of a base and so many of its adapters."""
    with Rehearsal() as gpu, pytest.MonkeyPatch.context() as patch:
        patch.setattr("descant.models.kernels.gpu._disabled", lambda: frozenset([disabled]))
        names = [f"arm_{i}" for i in range(arms)]
        models = {name: gpu.lora("base", RANK) for name in names}
        models["base"] = gpu.language_model("llama-3.1-8b", LAYERS)
        decoder = gpu.compile(" + 0.5*".join(["base", *names]), models, capture=True)
        [lane] = decoder.session.bound.lanes
        for i in range(loaded - arms):
            lane.adapters.add(f"other {i}", gpu.lora("base", RANK)["adapter"])
        [*_, found] = gpu.steps(decoder, [40] * rows, 3, room=256, temperature=1.0)
        assert found.mode == "replayed"
        return found


def of_adapters(found: Step) -> list[tuple[int, int, int]]:
    """What each launch of them reads and writes."""
    launches = [each for each in found.launches if each.name == "descant::add_lora"]
    return [(each.weights, each.other, each.written) for each in launches]


def test_adapters_are_four_launches_of_a_layer() -> None:
    arms = step(2, 2)
    assert len(of_adapters(arms)) == 4 * LAYERS  # q, k and v together; o
    sizes = 4 * SIZE + (SIZE + 2 * KEYS) + SIZE  # inputs, and outputs
    assert sum(weights for weights, *_ in of_adapters(arms)) == 2 * RANK * 2 * sizes * LAYERS


@pytest.mark.parametrize("rows", [1, 20])
def test_what_is_loaded_costs_nothing(rows) -> None:
    few, many = step(2, 2, rows), step(2, 20, rows)
    assert len(few.launches) == len(many.launches)
    for one, other in zip(of_adapters(few), of_adapters(many), strict=True):
        assert one == other


def test_a_switch_turns_them_off() -> None:
    assert not of_adapters(step(2, 2, disabled="lora"))
