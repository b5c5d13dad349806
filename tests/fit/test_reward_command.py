"""``descant fit`` with ``objective: reward``: the run file that it answers with, and its files."""

from __future__ import annotations

import json
import math

import pytest
from command_line import command
from sweeps import lines, written

from descant.inputs.runfile import RunFileError, read_run_file

CHANGES = {
    "formula": "base + a*arm_help + b*arm_harm",
    "sweep": None,
    "params": {"a": 0.5, "b": 0.5},
    "generate": {"max_new_tokens": 6, "batch_size": 16},
    "front": {"objectives": ["help", "-harm"], "reference": {"help": -5, "harm": 5}},
}
FIT = {
    "objective": "reward", "bounds": {"temperature": [0, 1.5]}, "constraints": ["simplex(a, b)"],
    "trials": 6, "holdout": 0.25, "grid": True, "weights": {"help": 1, "harm": 0.1},
}  # fmt: skip


def test_the_answer_is_a_run_file_with_the_values_put_in(tmp_path):
    file, out = written(tmp_path, **CHANGES, fit=FIT), tmp_path / "out"
    done = command("fit", file, "--output", out)
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    result = json.loads((out / "fit.json").read_text())
    best = result["params"]
    assert math.isclose(best["a"] + best["b"], 1, abs_tol=1e-5)
    assert f"the best is trial {result['best']}" in shown and "a grid of" in shown
    means = [t["help"] - 0.1 * t["harm"] for t in result["trials"] if t["front"]]
    chosen = result["scores"]
    assert chosen["help"]["mean"] - 0.1 * chosen["harm"]["mean"] == pytest.approx(max(means))
    answer = read_run_file(out / "fitted.yaml")
    assert answer.params == {"a": best["a"], "b": best["b"]} and answer.fit is None
    assert answer.generate.temperature == best["temperature"]
    assert answer.formula == CHANGES["formula"] and answer.score == read_run_file(file).score
    for name in ("report.html", "points.csv", "front.json", "convergence.png", "trials.jsonl"):
        assert (out / name).stat().st_size
    rows = lines(out)
    assert command("fit", file, "--output", out).returncode == 0
    assert lines(out) == rows and json.loads((out / "fit.json").read_text()) == result
    assert command("fit", file, "--output", out, "--set", "fit.trials=8").returncode == 0
    longer = json.loads((out / "fit.json").read_text())
    assert longer["trials"][0] == {**result["trials"][0], **_marks(longer, 0)}
    assert len(longer["trials"]) == 8 and [r for r in lines(out) if r in rows] == rows
    other = command("fit", file, "--output", out, "--set", "fit.sampler=random")
    assert other.returncode == 2 and "fit.sampler is 'tpe' there and 'random' here" in other.stderr


def _marks(result, number):
    """What becomes of a trial."""
    return {key: result["trials"][number][key] for key in ("front", "best")}


def test_a_run_file_says_what_it_cannot_fit(tmp_path):
    from descant.fit.command import fit_run
    from descant.show.terminal import Screen

    def refused(problem, **changes):
        file = written(tmp_path, **{**CHANGES, **changes})
        with pytest.raises(RunFileError, match=problem):
            fit_run(read_run_file(file), tmp_path / "none", Screen())

    refused("the run file has no fit; add fit")
    refused("fit.folds is for objective", fit={**FIT, "folds": 3})
    refused("fit.sampler", fit={**FIT, "sampler": "bayes"})
    refused("fit.trials", fit={**FIT, "trials": 0})
    refused("fit.trails|there is no option trails", fit={**FIT, "trails": 5})
