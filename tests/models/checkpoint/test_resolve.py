"""Declared names and what they stand for: an adapter's own words, and its base's for the rest."""

from __future__ import annotations

import pytest

from descant.models import ModelError, ModelSpec, resolve, with_bases
from descant.models.checkpoint.spec import READING, Marks, Steps

VALUES = {
    "template": ("{prompt}!", "{prompt}?"),
    "system": ("Be kind.", "Be brief."),
    "prefix": ("a", [1, 2]),
    "label": ("good", 0),
    "read": ("text", "tokens"),
    "steps": (Steps(by="."), Steps(by=".", reduce="prod")),
    "reasoning": (Marks(start="<a>", end="</a>"), Marks(start="<b>", end="</b>")),
}


def test_a_model_with_weights_of_its_own_is_itself() -> None:
    spec = ModelSpec(path="org/rm", label="good", read="text")
    model = resolve("rm", {"rm": spec})
    assert (model.name, model.base, model.spec, model.addition) == ("rm", "rm", spec, None)


@pytest.mark.parametrize("key", READING)
def test_an_adapter_has_its_own_value_or_its_base_s(key) -> None:
    one, two = VALUES[key]
    base = ModelSpec(path="org/rm", revision="main", dtype="float32", **{key: one})
    specs = {
        "rm": base,
        "plain": ModelSpec(adapter="org/plain", on="rm"),
        "own": ModelSpec(adapter="org/own", on="rm", revision="v1", **{key: two}),
    }
    plain, own = resolve("plain", specs), resolve("own", specs)
    assert plain.spec == base
    assert own.spec == base.model_copy(update={key: two})
    assert (own.base, own.addition) == ("rm", specs["own"])
    assert specs["rm"] == base


def test_values_that_are_empty_are_an_adapter_s_own() -> None:
    specs = {
        "base": ModelSpec(path="org/base", system="Be kind.", label=2),
        "arm": ModelSpec(adapter="org/arm", on="base", system="", label=0),
    }
    spec = resolve("arm", specs).spec
    assert (spec.system, spec.label) == ("", 0)


def test_an_adapter_needs_a_base_with_weights() -> None:
    specs = {
        "lost": ModelSpec(adapter="org/lost", on="gone"),
        "arm": ModelSpec(adapter="org/arm", on="base"),
        "high": ModelSpec(adapter="org/high", on="arm"),
        "base": ModelSpec(path="org/base"),
    }
    with pytest.raises(ModelError, match="the adapter lost is on gone, which is not declared"):
        resolve("lost", specs)
    with pytest.raises(ModelError, match="the adapter high is on arm, which is itself an adapter"):
        resolve("high", specs)
    assert list(with_bases(["arm"], specs)) == ["arm", "base"]
    assert list(with_bases(["lost"], specs)) == ["lost"]


def test_a_vector_is_on_a_model_as_an_adapter_is() -> None:
    specs = {
        "base": ModelSpec(path="org/base", system="Be kind."),
        "arm": ModelSpec(adapter="org/arm", on="base"),
        "calm": ModelSpec(vector={3: [0.5]}, on="base", tokens="all", prefix="x"),
        "lost": ModelSpec(vector="calm.safetensors", on="arm"),
        "high": ModelSpec(adapter="org/arm", on="calm"),
    }
    calm = resolve("calm", specs)
    assert (calm.base, calm.addition, calm.kind) == ("base", specs["calm"], "a vector")
    assert calm.spec == specs["base"].model_copy(update={"prefix": "x"}) and not calm.merged
    assert resolve("arm", specs).kind == "an adapter"
    with pytest.raises(ModelError, match="the vector lost is on arm, which is itself an adapter"):
        resolve("lost", specs)
    with pytest.raises(ModelError, match="the adapter high is on calm, which is itself a vector"):
        resolve("high", specs)
    assert with_bases(["calm"], specs).keys() == {"calm", "base"}
