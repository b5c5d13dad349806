"""``descant fit`` by texts: its folder, killed and resumed, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import descant
from descant.cli import app
from descant.inputs.runfile import read_run_file, validated
from descant.inputs.yaml import load_yaml
from descant.runtime.fit.kept_scores import KEPT

EXAMPLES = Path(__file__).parents[2] / "examples"
TRUTH = {"a": 0.8, "b": 0.3}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "out"
    command = ["fit", str(EXAMPLES / "fit.yaml"), "--output", str(folder)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_the_answer_is_a_run_file_with_the_values_and_a_report(uninterrupted) -> None:
    folder, output = uninterrupted
    found = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    for name, true in TRUTH.items():
        assert abs(found["params"][name] - true) < 3 * found["stderr"][name]
    fitted = validated(load_yaml((folder / "fitted.yaml").read_text("utf-8")), "fitted.yaml")
    assert fitted.params == found["params"] and fitted.fit is None
    before, after = found["holdout"]["perplexity"]
    assert after < before and "held out, perplexity" in output
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "arm_harm" in page and "data:image/png" in page and "<script" not in page
    assert (folder / "fit.pdf").stat().st_size > 1000 and not [*folder.glob(f"{KEPT}*")]
    decoder = descant.compile(fitted.formula, fitted.models, params=fitted.params)
    rows = [json.loads(line) for line in (EXAMPLES / "fit.jsonl").open(encoding="utf-8")]
    section = read_run_file(EXAMPLES / "fit.yaml").fit
    fit = decoder.fit(
        [row["prompt"] for row in rows], [row["completion"] for row in rows],
        bounds=section.bounds, holdout=section.holdout,
    )  # fmt: skip
    assert fit.params == pytest.approx(found["params"], abs=1e-4)
    assert fit.run_file["params"] == fit.params and validated(fit.run_file, "run_file").formula


def test_a_fit_that_is_killed_reads_on_and_finds_the_same(uninterrupted, tmp_path) -> None:
    folder, _ = uninterrupted
    out, run = tmp_path / "out", EXAMPLES / "fit.yaml"
    command = [sys.executable, "-m", "descant", "fit", str(run), "--output", str(out)]
    command += ["--set", "generate.batch_size=1"]
    positions = out / f"{KEPT}positions"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (positions.is_file() and positions.stat().st_size) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    kept = positions.stat().st_size
    assert kept > 0 and not (out / "fit.json").exists()
    with positions.open("ab") as file:
        file.write(b"half")
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    one, other = (
        json.loads((each / "fit.json").read_text(encoding="utf-8")) for each in (folder, out)
    )
    assert other["params"] == pytest.approx(one["params"], abs=1e-4)
    assert other["loglikelihood"] == pytest.approx(one["loglikelihood"], abs=0.01)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["fit.bounds={c: [0, 1]}"], "no term uses the parameter c"),
        (["fit.trials=3"], "fit.trials is for objective: reward"),
        (["fit.objective=preference"], "has no chosen"),
        (["fit.constraints=[open(x)]"], "is no constraint; write simplex"),
        (["fit=null"], "the run file has no fit"),
    ],
)
def test_what_is_wrong_with_a_fit_is_said(tmp_path, changes, problem) -> None:
    command = ["fit", str(EXAMPLES / "fit.yaml"), "--output", str(tmp_path / "out")]
    for change in changes:
        command += ["--set", change]
    result = CliRunner().invoke(app, command)
    said = result.output + str(result.exception)
    assert result.exit_code and problem in " ".join(said.split())
