"""``parallel: terms`` in run files: two processes give the lines of one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sweeps import ROOT, SPECS, lines, run_of, written

from descant.inputs.runfile import RunFileError, read_run_file
from descant.results.folder import COMPLETIONS, Journal
from descant.runs.run import compiled, of_one_formula, run_to_folder
from descant.sweep import sweep

MORE = {
    "formula": None,
    "formulas": {
        "fused": "base + a*arm_help + 0.3*small",
        "guided": "small + 0.2*base | rerank(reward_help, k=4)",
        "soup": "soup",
    },
    "merge": {"soup": "(1-a)*arm_help + a*arm_harm"},
    "sweep": {"a": [0, 1]},
    "score": {"help": "reward_help", "ppl": {"perplexity": "small"}, "kl": {"kl": "base"}},
    "front": None,
}
LAUNCH = [
    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
    "-m", "descant",
]  # fmt: skip


def together(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCH, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=200
    )


@pytest.mark.slow
def test_two_processes_give_the_sweep_of_one(tmp_path: Path) -> None:
    file, out, one = written(tmp_path, **MORE), tmp_path / "out", tmp_path / "one"
    done = together("sweep", file, "--set", "parallel=terms", "--output", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("written: ") == 1
    sweep(read_run_file(file), one)
    assert lines(out) == lines(one)
    for found, expected in zip(lines(out, "scores"), lines(one, "scores"), strict=True):
        # What one process has read before, the other may read now: equal up to rounding.
        assert found.pop("scores") == pytest.approx(expected.pop("scores"), rel=1e-5)
        assert found == expected
    # The same folder goes on in one process, and without the key: the lines are the same.
    kept = (out / "completions.jsonl").read_text().splitlines(keepends=True)
    (out / "completions.jsonl").write_text("".join(kept[:-5]))
    sweep(read_run_file(file), out)
    assert lines(out) == lines(one)


@pytest.mark.slow
def test_two_launchers_of_one_process_give_the_run_of_one(tmp_path: Path) -> None:
    """As two nodes start them: one rendezvous, one folder."""
    file, out, one = written(tmp_path, **MORE), tmp_path / "out", tmp_path / "one"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    meet = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", endpoint, "-m", "descant"]  # fmt: skip
    words = ["run", str(file), "--formula", "guided", "--set", "parallel=terms",
             "--output", str(out)]  # fmt: skip
    nodes = [
        subprocess.Popen(
            [*LAUNCH[:3], *meet, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        said = [node.communicate(timeout=200) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "".join(text for text, _ in said).count("8 completions written, 8 in all") == 1
    run = of_one_formula(read_run_file(file), "guided")
    list(run_to_folder(run, compiled(run), one))
    found, expected = (
        sorted((r["id"], r["sample"], r["token_ids"]) for r in Journal(p, COMPLETIONS).records())
        for p in (out, one)
    )
    assert found == expected and len(found) == 8


def test_processes_that_would_all_do_the_same_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunFileError, match="would all do the same; write parallel: terms"):
        compiled(run_of(tmp_path, sweep=None, front=None, score=None))


def test_split_layers_are_for_processes_that_decode_together(tmp_path: Path) -> None:
    models = {**SPECS, "split": {**SPECS["small"], "tp_plan": "auto"}}
    run = run_of(
        tmp_path, formula="base + split", models=models, score=None, front=None, sweep=None
    )
    with pytest.raises(ValueError, match=r'split over processes(.|\n)*say parallel="terms"'):
        sweep(run, tmp_path / "out")
    scored = run_of(tmp_path, models=models, score={"x": {"perplexity": "split"}}, front=None)
    with pytest.raises(RunFileError, match=r"score.x: the layers of split are split over"):
        sweep(scored, tmp_path / "scored")


def test_a_formula_is_chosen_by_its_name(tmp_path: Path) -> None:
    run = run_of(tmp_path, **MORE)
    assert of_one_formula(run, "soup").formula == "base[(1 - a)*arm_help + a*arm_harm]"
    assert json.loads(of_one_formula(run, "soup").model_dump_json())["formulas"] == {}
    for name, says in (
        ("sop", "there is no formula sop; did you mean soup?"),
        (None, "several formulas (fused, guided, soup); choose one with --formula"),
    ):
        with pytest.raises(RunFileError) as caught:
            of_one_formula(run, name)
        assert says in str(caught.value)
    with pytest.raises(RunFileError, match="one formula, without a name"):
        of_one_formula(run_of(tmp_path), "a")
    only = run_of(tmp_path, formula=None, formulas={"only": "base"})
    assert of_one_formula(only, None).formula == "base"


def test_a_merged_model_is_decoded_at_the_parameters_values(tmp_path: Path) -> None:
    """The row of a sweep at that point, decoded by ``descant run``."""
    run = run_of(tmp_path, **{**MORE, "score": None, "formulas": {"soup": "soup"}})
    sweep(run, tmp_path / "swept")
    row = next(line for line in lines(tmp_path / "swept") if line["params"] == {"a": 1.0})
    decoder = compiled(run.model_copy(update={"params": {"a": 1.0}}))
    alone = decoder.generate(row["prompt"], seed=row["seed"], temperature=1.0, max_new_tokens=12)
    assert alone[0].token_ids == row["token_ids"]
