"""Fits by rewards of the demo models: in a folder, killed, by two processes, and in Python."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time

import pytest
from sweeps import SPECS, lines, run_of

import descant
from descant.fit.rewards.in_folder import fit_in_folder
from descant.fit.rewards.options import Options
from descant.inputs.runfile import RunFileError, validated
from descant.results import load
from descant.sweep import sweep

FORMULA = "base + a*arm_help + b*arm_harm | rerank(reward_help, k=k, w=0.2)"
CHANGES = {
    "formula": FORMULA,
    "params": {"a": 0.5, "b": 0.5, "k": 4},
    "sweep": None,
    "front": {"reference": {"help": -3, "harm": -3}},
    "generate": {"max_new_tokens": 10, "temperature": 1.0, "batch_size": 12},
}
OPTIONS = Options(
    {"a": (0, 2), "k": (1, 8), "temperature": (0, 1.5)}, trials=12, holdout=0.25, grid=True
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted fit of two objectives."""
    place = tmp_path_factory.mktemp("whole")
    run = run_of(place, **CHANGES)
    outcome, first = fit_in_folder(run, OPTIONS, place / "out")
    assert first
    return run, place / "out", outcome


def test_trials_are_rows_of_a_sweep(whole, tmp_path):
    """Each point of the fit, decoded and scored again by a sweep of that point's values."""
    run, out, outcome = whole
    rows = lines(out)
    assert len({(r["formula"], r["point"], r["id"]) for r in rows}) == len(rows)
    held = {r["id"] for r in rows if r["formula"] == "held_out"}
    assert len(held) == 1
    assert {r["id"] for r in rows if r["formula"] != "held_out"} == {*range(4)} - held
    assert {r["seed"] for r in rows} == {r["seed"] for r in rows if r["point"] == 0}
    assert all(float(r["params"]["k"]).is_integer() for r in rows)
    assert rows[0]["params"] and outcome.trials[0].params == {"a": 0.5, "k": 4, "temperature": 1}
    decoder = descant.compile(FORMULA, SPECS, params=run.params)
    for row in random.Random(0).sample(rows, 5):
        params = {k: v for k, v in row["params"].items() if k != "temperature"}
        heat = row["params"]["temperature"]
        [alone] = decoder.generate(
            row["prompt"], params=params, seed=row["seed"], temperature=heat, max_new_tokens=10
        )
        assert alone.token_ids == row["token_ids"]
    trial = outcome.trials[outcome.front[0]]
    texts = [r for r in rows if r["formula"] == "formula" and r["point"] == trial.point]
    for i, reward in enumerate(("reward_help", "reward_harm")):
        scores = descant.score(
            reward, [r["prompt"] for r in texts], [r["text"] for r in texts], models=SPECS
        )
        assert trial.mean(i) == pytest.approx(sum(scores) / 3, abs=1e-4)


def test_killed_at_any_moment_nothing_is_lost_and_nothing_doubled(whole, tmp_path):
    run, expected, outcome = whole
    out, draw, ends = tmp_path / "out", random.Random(5), []

    def size(stem="completions"):
        file = out / f"{stem}.jsonl"
        return file.stat().st_size if file.exists() else 0

    total = (expected / "completions.jsonl").stat().st_size
    for _ in range(3):
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=fit_in_folder, args=(run, OPTIONS, out))
        process.start()
        until = size() + draw.random() * 0.3 * total
        while process.is_alive() and size() < until:
            time.sleep(0.0005)
        process.kill()
        process.join()
        ends.append(process.exitcode)
    assert ends.count(-signal.SIGKILL) >= 2 and size("trials")
    for stem in ("trials", "completions"):
        with (out / f"{stem}.jsonl").open("a") as torn:
            torn.write('{"round": 1, "prop')
    again, _ = fit_in_folder(run, OPTIONS, out)
    for stem in ("completions", "scores"):
        assert lines(out, stem) == lines(expected, stem)
    assert (out / "trials.jsonl").read_text() == (expected / "trials.jsonl").read_text()
    assert again == outcome


@pytest.mark.slow
def test_two_processes_share_the_prompts_of_every_trial(whole, tmp_path):
    run, expected, outcome = whole
    out, context = tmp_path / "out", multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        said = manager.list()
        workers = [
            context.Process(target=worker, args=(rank, run.model_dump(mode="json"), out, said))
            for rank in (0, 1)
        ]
        for process in workers:
            process.start()
        for process in workers:
            process.join(120)
        assert [process.exitcode for process in workers] == [0, 0]
        assert [*said] == [outcome.params] * 2
    assert lines(out) == lines(expected)
    assert not list(out.glob("*.[0-9].jsonl"))


def worker(rank, content, out, said):
    """One of two processes, as ``torchrun`` starts them."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29571",
    }  # fmt: skip
    content["generate"]["batch_size"] //= 2  # as many trials at once as alone
    said.append(fit_in_folder(validated(content, "here"), OPTIONS, out)[0].params)


def test_the_report_shows_trials_beside_the_grid(whole):
    _, out, outcome = whole
    results = load(out)
    front = results.front["formulas"]["formula"]
    assert set(front["front"]) >= {outcome.trials[n].point for n in outcome.front}
    assert front["hypervolume"] == pytest.approx(outcome.hypervolume.mean, rel=1e-4)
    grid = results.front["formulas"]["grid"]
    assert grid["hypervolume"] == pytest.approx(outcome.grid.hypervolume.mean, rel=1e-4)
    assert "held_out" not in results.front["formulas"]


def test_the_best_of_an_expensive_grid_is_found(tmp_path):
    """126 points of a grid against 24 trials, of which each costs as much as one of them."""
    changes = {**CHANGES, "score": {"worst": "min(reward_help, reward_harm)"}, "front": None,
               "generate": {"max_new_tokens": 10, "temperature": 0, "batch_size": 64}}  # fmt: skip
    grid = {"a": {"from": 0, "to": 2, "step": 0.1}, "b": {"from": 0, "to": 2, "step": 0.4}}
    sweep(run_of(tmp_path, **{**changes, "sweep": grid}), tmp_path / "grid")
    every = load(tmp_path / "grid").points["worst"]
    options = Options({"a": (0, 2), "b": (0, 2)}, trials=24)
    outcome, _ = fit_in_folder(run_of(tmp_path, **changes), options, tmp_path / "out")
    best = outcome.means(outcome.best)[0].mean
    assert every.max() - best <= 0.02 * (every.max() - every.min())
    assert best > every.quantile(0.9)


def test_what_cannot_be_maximised_is_refused(tmp_path):
    def refused(problem, **changes):
        with pytest.raises(RunFileError, match=problem):
            fit_in_folder(run_of(tmp_path, **{**CHANGES, **changes}), OPTIONS, tmp_path / "none")

    refused("score: names no reward to maximise", score={"ppl": {"perplexity": "base"}}, front=None)
    many = dict.fromkeys("uvwx", "reward_help")
    refused("has 4 rewards, and a front is of three at most", score=many, front=None)
    assert not (tmp_path / "none").exists()
