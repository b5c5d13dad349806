"""The steering example: its vector and its probe, on a demo model and on SmolLM2."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import descant
from descant.demo import WEIGHTS
from descant.train import read_train_file
from descant.train.states.probe import train_probe
from examples.steering import calm, conditional

FOLDER = Path(calm.__file__).parent
BASE = str(WEIGHTS / "base")


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def answers(out: str) -> dict[tuple[str, float], str]:
    """What the example printed, by question and weight."""
    found, question = {}, ""
    for line in out.splitlines():
        if match := re.match(r"  w=([+-]\d\.\d): '?\"?(.*?)'?\"?$", line):
            found[question, float(match[1])] = match[2]
        elif line:
            question = line
    return found


def test_it_steers_a_demo_model(tmp_path, capsys) -> None:
    given = ["--model", BASE, "--output", str(tmp_path / "calm"), "--tokens", "12"]
    given += ["--set", "layers=2"]
    calm.main(given)
    first = capsys.readouterr().out
    found = answers(first)
    assert {*found} == {(question, w) for question in calm.QUESTIONS for w in calm.WEIGHTS}
    assert all(len({found[question, w] for w in calm.WEIGHTS}) > 1 for question in calm.QUESTIONS)
    plain = descant.compile(
        "chat | repetition_penalty(1.2)",
        {"chat": {"path": BASE, "dtype": "float32", "template": "chat"}},
    )
    bare = plain.generate([*calm.QUESTIONS], max_new_tokens=12, temperature=0)
    for question, answer in zip(calm.QUESTIONS, bare, strict=True):
        assert repr(answer.text)[1:-1] == found[question, 0.0]
    calm.main(given)  # the vector is there
    second = capsys.readouterr().out
    assert first.endswith(second) and "pairs" in first and "pairs" not in second


def test_the_labels_of_the_probe_have_the_same_answers_and_other_requests_are_held_out() -> None:
    for name in ("requests", "requests_eval"):
        sides = {
            label: sorted(row["completion"] for row in rows(name) if row["label"] == label)
            for label in ("stressed", "ordinary")
        }
        assert sides["stressed"] == sides["ordinary"] and sides["ordinary"]
    held_out = {row["prompt"] for row in rows("requests_eval")}
    assert held_out.isdisjoint(row["prompt"] for row in rows("requests"))


def test_the_probe_is_fitted_to_a_demo_model(tmp_path) -> None:
    sets = [f"model.path={BASE}", "layer=2"]
    recipe = read_train_file("probe", FOLDER / "stressed.yaml", sets, output=str(tmp_path / "p"))
    done = train_probe(recipe, lambda line: None)
    assert done.metrics["accuracy"] > 0.9 and 0 <= done.metrics["eval_accuracy"] <= 1


def test_a_demo_model_is_steered_where_its_probe_says_so(tmp_path, capsys) -> None:
    """At weight 0 the answers are the bare model's."""
    given = ["--model", BASE, "--output", str(tmp_path), "--layers", "2", "1", "--tokens", "8"]
    conditional.main(given)
    found = answers(capsys.readouterr().out)
    assert {*found} == {(request, w) for request in conditional.REQUESTS for w in (0.0, 1.0)}
    plain = descant.compile(
        "chat | repetition_penalty(1.2)",
        {"chat": {"path": BASE, "dtype": "float32", "template": "chat"}},
    )
    bare = plain.generate([*conditional.REQUESTS], max_new_tokens=8, temperature=0)
    for request, answer in zip(conditional.REQUESTS, bare, strict=True):
        assert repr(answer.text)[1:-1] == found[request, 0.0]


@pytest.fixture(scope="module")
def made_for_smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples find the vector and the probe that one of them has made."""
    return tmp_path_factory.mktemp("steering")


@pytest.mark.slow
def test_smollm2_is_agitated_at_negative_weights(smollm2_package, made_for_smollm2, capsys) -> None:
    calm.main(["--output", str(made_for_smollm2 / "calm"), "--tokens", "32"])
    found = answers(capsys.readouterr().out)

    def marks(weight: float) -> int:
        return sum(found[question, weight].count("!") for question in calm.QUESTIONS)

    assert marks(-1.0) >= 4 and marks(0.0) == marks(1.0) == 0


@pytest.mark.slow
def test_smollm2_is_steered_for_stressed_requests_alone(
    smollm2_package, made_for_smollm2, capsys
) -> None:
    """And its probe tells the requests apart that were held out."""
    conditional.main(["--output", str(made_for_smollm2), "--tokens", "24"])
    found = answers(capsys.readouterr().out)
    changed = [found[request, 0.0] != found[request, 1.0] for request in conditional.REQUESTS]
    assert changed == [True, True, False, False]
    kept = json.loads((made_for_smollm2 / "stressed" / "training.json").read_text())
    assert kept["metrics"]["eval_accuracy"] >= 0.9
