"""``descant fit`` with a gate: the run file that it writes has the likelihood that it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import descant
from descant.cli import app
from descant.inputs.runfile import RunFileError, read_run_file
from descant.inputs.yaml import dump_yaml, load_yaml

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_with(folder, **fit):
    content = load_yaml((EXAMPLES / "fit.yaml").read_text("utf-8"))
    for spec in content["models"].values():
        for key in ("path", "adapter"):
            if key in spec:
                spec[key] = str((EXAMPLES / spec[key]).resolve())
    content["fit"]["data"] = {"path": str(EXAMPLES / "fit.jsonl")}
    content["fit"] |= {"bounds": {"a": [0, 2]}, "gate": {"on": "base", "layer": 2}} | fit
    file = folder / "run.yaml"
    file.write_text(dump_yaml(content | {"output": str(folder / "out")}), "utf-8")
    return file


def test_the_fitted_run_file_has_the_gates(tmp_path):
    result = CliRunner().invoke(app, ["fit", str(run_with(tmp_path))], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "fit.json").read_text("utf-8"))
    fitted = read_run_file(tmp_path / "out" / "fitted.yaml")
    assert fitted.formula == "base + (2*sigmoid(head(base, gate_a)))*arm_help + b*arm_harm"
    assert fitted.params == {"b": 0.0} and found["formula"] == fitted.formula
    decoder = descant.compile(fitted.formula, fitted.models, params=fitted.params)
    rows = [json.loads(line) for line in (EXAMPLES / "fit.jsonl").open(encoding="utf-8")]
    texts = [row["prompt"] for row in rows], [row["completion"] for row in rows]
    likelihoods = decoder.loglikelihood(*texts)
    held_out = sum(len(each.logprobs) for each in likelihoods) - found["tokens"]
    expected = found["loglikelihood"] * found["tokens"] + found["held_out"] * held_out
    assert sum(each.total for each in likelihoods) == pytest.approx(expected, rel=1e-3)
    assert f"{-found['held_out']:.4f} by gates" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        ({"bounds": None}, "say which parameters become gates"),
        ({"constraints": ["simplex(a, b)"]}, "no constraints and no folds"),
        ({"objective": "preference"}, "fit.gate is for objective: likelihood"),
    ],
)
def test_what_no_gate_has_is_refused(tmp_path, fit, said):
    with pytest.raises(RunFileError, match=said):
        read_run_file(run_with(tmp_path, **fit))
