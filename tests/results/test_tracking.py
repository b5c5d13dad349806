"""A sweep in trackers, by their own libraries, offline: they hold what the folder has."""

from __future__ import annotations

import json
import os
import re
import sqlite3

import pytest
from command_line import command
from sweeps import run_of

from descant.errors import ArgumentError
from descant.extras import MissingExtra, pip_install
from descant.results import load
from descant.sweep import sweep
from descant.tracking import export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("tracked")
    sweep(run_of(tmp_path, sweep={"a": [0, 1]}), tmp_path / "first")
    return tmp_path / "first"


def test_mlflow_holds_every_point_once(folder) -> None:
    mlflow = pytest.importorskip("mlflow", reason='pip install "descant[track]"')
    done = command("export", folder, "--to", "mlflow", "--offline", "--project", "one")
    assert done.returncode == 0, done.stderr
    assert "mlflow ui --backend-store-uri sqlite:///" in " ".join(done.stdout.split())
    export(folder, "mlflow", project="one", offline=True)  # again: nothing is doubled
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("one").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert len(runs) == len(by_name) == 3
    parent, results = by_name["first"], load(folder)
    for _, row in results.points.iterrows():
        run = by_name[f"formula:{row['point']}"]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.metrics["help"] == pytest.approx(row["help"])
        assert run.data.metrics["harm_low"] == pytest.approx(row["harm_low"])
        assert float(run.data.params["params.a"]) == row["param_a"]
        assert run.info.status == "FINISHED"
    params = parent.data.params
    assert params["run.formulas.formula"] == results.run.formula
    assert params["run.models.base.path"] == results.run.models["base"].path
    assert (params["seed"], params["run.generate.max_new_tokens"]) == ("0", "12")
    [digest] = results.meta["models"]["base"]["sha256"].values()
    assert digest in params.values()
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {
        "points.json", "effects.json", "completions.json", "front.png", "effects.png", "scores.png",
        "run.yaml", "meta.json", "report.html",
    }  # fmt: skip
    place = folder / "mlartifacts" / parent.info.run_id / "artifacts"
    table = json.loads((place / "completions.json").read_text())
    assert len(table["data"]) == len(results.table)
    assert (place / "front.png").read_bytes() == (folder / "front.png").read_bytes()


def test_wandb_writes_offline_runs(folder) -> None:
    pytest.importorskip("wandb", reason='pip install "descant[track]"')
    assert "wandb sync" in export(folder, "wandb", offline=True)
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(runs) == 3
    results = load(folder)
    content = b"".join(file for run in runs for file in [next(run.glob("*.wandb")).read_bytes()])
    for part in ("formula:0", "formula:1", results.run.formula, "reward_help"):
        assert part.encode() in content, part
    for value in results.points["help"]:
        assert f"{value:.6f}"[:6].encode() in content
    together = [run for run in runs if (run / "files" / "media").is_dir()]
    [media] = [run / "files" / "media" for run in together]
    [points] = (media / "table").glob("points*.json")
    assert len(json.loads(points.read_text())["data"]) == 2
    [front] = (media / "images").glob("front*.png")
    assert front.read_bytes() == (folder / "front.png").read_bytes()
    assert (together[0] / "files" / "run.yaml").is_file()


def test_trackio_writes_a_database(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is imported
    pytest.importorskip("trackio", reason='pip install "descant[trackio]"')
    monkeypatch.setenv("TRACKIO_SPACE_ID", "org/space")
    with pytest.raises(ArgumentError, match="TRACKIO_SPACE_ID is set"):
        export(folder, "trackio", offline=True)
    monkeypatch.delenv("TRACKIO_SPACE_ID")
    export(folder, "trackio", project="one", offline=True)
    [file] = tmp_path.rglob("one.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
    logged = {name: json.loads(metrics) for name, metrics in rows}
    for _, row in load(folder).points.iterrows():
        assert logged[f"formula:{row['point']}"]["help"] == pytest.approx(row["help"])
    assert {"points", "effects", "completions", "front"} <= set(logged["first"])


def test_a_tracker_that_is_not_installed_names_its_extra(folder, monkeypatch) -> None:
    monkeypatch.setattr("descant.extras.find_spec", lambda package: None)
    with pytest.raises(MissingExtra, match=re.escape(pip_install("track"))):
        export(folder, "wandb")
    assert "WANDB_MODE" not in os.environ  # nothing of the environment is changed
