"""Results as tables, from a folder; and the example that the documents show."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas
import pytest
from doc_pages import descant
from sweeps import ROOT, lines, run_of

from descant.inputs.runfile import RunFileError
from descant.results import load
from descant.results.folder import COMPLETIONS, Journal
from descant.runs.resume import prepare
from descant.runs.run import compiled, run_to_folder
from descant.sweep import sweep


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The example's folder, by the command line."""
    out = tmp_path_factory.mktemp("example") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        done = descant(
            "sweep", "examples/sweep.yaml", "--output", out,
            "--set", "generate.max_new_tokens=8", "--set", "sweep.a.step=0.5",
            "--set", "data.limit=5", "--set", "generate.num_return_sequences=2",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_tables_are_the_lines(example):
    out, _ = example
    found = load(out)
    records, scores = lines(out), lines(out, "scores")
    assert len(found.table) == len(records) == 12 * 5 * 2
    assert [*zip(found.table["formula"], found.table["point"], found.table["id"],
                 found.table["sample"], strict=True)] == [
        (r["formula"], r["point"], r["id"], r["sample"]) for r in records]  # fmt: skip
    assert [*found.table["text"]] == [r["text"] for r in records]
    help_ = [line["scores"]["help"] for line in scores if "help" in line["scores"]]
    assert [*found.table["help"]] == help_
    assert {"diversity", "rep_4", "distinct_1", "length", "perplexity", "kl"} <= {*found.table}
    for _, row in found.points.iterrows():
        mine = found.table[
            (found.table["formula"] == row["formula"]) & (found.table["point"] == row["point"])
        ]
        assert row["help"] == pytest.approx(mine["help"].mean())
        assert row["help_low"] <= row["help"] <= row["help_high"]
        assert (row["n"], row["help_n"], row["tokens"]) == (10, 10, mine["tokens"].sum())
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / mine["elapsed"].sum())
    arms = found.points[found.points["formula"] == "arms"]
    assert [*arms["param_a"]] == [0, 0.5, 1]
    assert arms["param_a"].notna().all()
    assert found.points[found.points["formula"] == "base"]["param_a"].isna().all()


def test_the_files_are_the_tables(example):
    out, said = example
    found = load(out)
    csv = pandas.read_csv(out / "results.csv")
    parquet = pandas.read_parquet(out / "results.parquet")
    assert [*csv.columns] == [*parquet.columns] == [*found.table.columns]
    assert len(csv) == len(parquet) == len(found.table)
    assert np.allclose(csv["harm"], found.table["harm"])
    points = pandas.read_csv(out / "points.csv")
    assert [*points.columns] == [*found.points.columns] and len(points) == 12
    assert json.loads((out / "front.json").read_text()) == found.front
    assert set(found.front["formulas"]) == {*found.run.named}
    for word in ("hypervolume", "mean inner product", "tokens/s", "seconds", "results.parquet"):
        assert word in " ".join(said.split())


def test_kl_from_the_base_of_the_base_is_nothing(example):
    out, _ = example
    found = load(out).table
    alone = found[found["formula"] == "base"]
    assert alone["kl"].abs().max() < 1e-2  # log-probabilities are kept to three digits
    assert found[found["formula"] == "soup"]["kl"].mean() > 0.5


def test_results_can_be_read_while_a_sweep_goes_on(tmp_path):
    run = run_of(tmp_path)
    sweep(run, tmp_path / "out")
    part = tmp_path / "part"
    prepare(run, part)
    Journal(part, COMPLETIONS).add(lines_with_elapsed(tmp_path / "out")[:5])
    with (part / "completions.jsonl").open("a") as file:
        file.write('{"torn')
    found = load(part)
    assert len(found.table) == 5 and found.meta == {}
    assert found.front == {"objectives": ["help", "harm"], "formulas": {}}
    assert math.isnan(found.points.get("help", pandas.Series([math.nan])).iloc[0])


def lines_with_elapsed(folder):
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


def test_a_folder_of_descant_run_is_one_point(tmp_path):
    run = run_of(tmp_path, sweep=None, front=None, score=None)
    list(run_to_folder(run, compiled(run), tmp_path / "out"))
    found = load(tmp_path / "out")
    assert len(found.points) == 1 and len(found.table) == 8
    assert found.points["formula"][0] == "formula"


def test_no_run_is_said(tmp_path):
    with pytest.raises(RunFileError, match="holds no run"):
        load(tmp_path)
