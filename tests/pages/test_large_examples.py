"""Run files of models too large for a test: read, planned, and run with tiny ones instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from descant.api import plan_of
from descant.inputs.runfile import RunFile, read_run_file
from descant.models import ModelSpec
from descant.runs.run import compiled, run_to_folder

FILES = sorted((Path(__file__).parents[2] / "examples" / "genarm").glob("*.yaml"))
SHAPES = {  # rows of one request in each lane, in the order of the plan
    "alpaca-7b-safe": ["base + arm_help + arm_harm"],
    "llama-7b-args": ["base", "reward"],
}


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def run(request) -> RunFile:
    return read_run_file(request.param)


def tiny(run: RunFile, zoo: Any) -> RunFile:
    """The same run, with a small checkpoint for every model; nothing else is changed."""
    plan = plan_of(run.formula, run.models, run.params, run.prompts)
    rewards = {term.model for term in plan.rewards}
    stand_ins, adapters = iter(("base", "arm", "strong")), iter(("lora4", "lora8"))
    models: dict[str, ModelSpec] = {}
    for name, spec in run.models.items():
        if spec.adapter is not None:
            change = {"adapter": zoo.path(next(adapters))}
        elif name in rewards:
            change = {"path": zoo.path("rm")}
        else:
            change = {"path": zoo.path(next(stand_ins))}
        models[name] = spec.model_copy(update=change)
    generate = run.generate.model_copy(update={"max_new_tokens": 6})
    return run.model_copy(update={"models": models, "generate": generate})


def test_there_is_one_for_every_set_up() -> None:
    names = {file.stem for file in FILES}
    assert {f"tulu2-{size}" for size in ("7b", "13b", "13b-gptq", "70b", "70b-gptq")} <= names
    assert set(SHAPES) <= names


def test_it_plans(run) -> None:
    plan = plan_of(run.formula, run.models, run.params, run.prompts)
    assert set(plan.models) == set(run.models)
    assert not plan.dropped


def test_it_runs_with_tiny_models(run, zoo, tmp_path) -> None:
    small = tiny(run, zoo)
    decoder = compiled(small)
    shape = SHAPES.get(Path(run.output or "").name.removeprefix("genarm-"), ["base", "arm"])
    assert list(decoder.session.bound.lane_names) == shape
    records = list(run_to_folder(small, decoder, tmp_path / "out"))
    assert len(records) == 5
    for record in records:
        assert record["params"] == run.params
        assert 1 <= len(record["token_ids"]) <= 6
        assert record["finish_reason"] in ("length", "eos")


def test_the_arm_and_the_reward_count(run, zoo) -> None:
    """With the guiding weights at zero, the base alone: other tokens than with them.

    In float32: in 16 bits, what was read in other company differs by as much as two tokens may.
    """
    small = tiny(run, zoo)
    exact = {name: spec.model_copy(update={"dtype": None}) for name, spec in small.models.items()}
    small = small.model_copy(update={"models": exact})
    decoder = compiled(small)
    arguments = {"max_new_tokens": 6, "temperature": 0.0}
    prompt = "How do I boil eggs?"
    guided, bare = (
        decoder.generate(prompt, params=params, **arguments)[0].token_ids
        for params in (run.params, dict.fromkeys(run.params, 0.0))
    )
    alone = small.model_copy(update={"formula": "base", "models": {"base": small.models["base"]}})
    alone = alone.model_copy(update={"params": {}})
    assert bare == compiled(alone).generate(prompt, **arguments)[0].token_ids
    assert guided != bare
