"""The benchmark of steering: the ways give the same tokens, and a difference is seen."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest

from bench import steering
from descant.bench.measure import Settings
from descant.demo import WEIGHTS

WAYS = {"ours": steering.ours, "hooks": steering.hooks}
NEW = 10


@pytest.fixture(scope="module")
def steered() -> steering.Steered:
    """A vector of a demo model."""
    return steering.opened(str(WEIGHTS / "base"), ["layers=2"])


@pytest.mark.parametrize("name", steering.CASES)
def test_hooks_give_the_same_tokens(steered, name) -> None:
    found = steering.measured(steered, steering.CASES[name], WAYS, Settings(new=NEW, runs=1))
    rows = len(found["weights"])
    assert {each["hooks"] for each in found["tokens"].values()} == {f"{rows} of {rows} rows equal"}
    assert found["raw"].keys() == WAYS.keys() and found["ratios"].keys() == {"hooks / ours"}


@pytest.mark.parametrize("change", [{"layer": 1}, {"weight": -1.0}, {"scope": "all"}])
def test_another_layer_weight_or_scope_is_seen(steered, change) -> None:
    case = steering.CASES["eight rows"]

    def other(steered: steering.Steered, case: steering.Case, scope: str) -> steering.Way:
        steered = replace(steered, layer=change.get("layer", steered.layer))
        case = replace(case, weights=[change.get("weight", one) for one in case.weights])
        return steering.hooks(steered, case, change.get("scope", scope))

    ways = {"ours": steering.ours, "hooks": other}
    found = steering.measured(steered, case, ways, Settings(new=NEW, runs=1))
    assert found["tokens"]["answer"]["hooks"] != "8 of 8 rows equal"


@pytest.mark.skipif(find_spec("aisteer360") is None, reason="AISteer360 is not there")
@pytest.mark.parametrize("name", steering.CASES)
def test_aisteer360_gives_the_same_tokens(steered, name) -> None:
    ways = {"ours": steering.ours, "aisteer360": steering.aisteer360}
    found = steering.measured(steered, steering.CASES[name], ways, Settings(new=NEW, runs=1))
    rows = len(found["weights"])
    equal = f"{rows} of {rows} rows equal"
    assert {each["aisteer360"] for each in found["tokens"].values()} == {equal}
