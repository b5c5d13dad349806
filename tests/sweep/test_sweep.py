"""``descant sweep``: every row once, whatever interrupts it, and each as it would be alone."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sweeps import ROOT, SPECS, lines, run_of, written

import descant
from descant.disk import DiskError, resumable
from descant.inputs.expand import key_of, settings_of
from descant.inputs.runfile import RunFileError, read_run_file
from descant.results.folder import Journal
from descant.sweep import sweep

SHARED = {
    "formula": None,
    "formulas": {
        "arms": "base + (1-a)*arm_help + a*arm_harm",
        "plain": "base",
        "w": "base + a*soup",
    },
    "merge": {"soup": "b*arm_help + arm_harm"},
    "params": {"a": 0.5, "b": 0.25},
    "sweep": {"a": [0.25, 1], "b": [0.5, 2], "temperature": [0, 1]},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of an uninterrupted sweep, and its run file."""
    place = tmp_path_factory.mktemp("whole")
    run = run_of(place)
    assert sweep(run, place / "out")
    return run, place / "out"


def test_every_row_is_there_once(whole):
    _, out = whole
    found = lines(out)
    assert [key_of(r) for r in found] == [
        ("formula", point, item, sample)
        for point in range(3) for item in range(4) for sample in range(2)
    ]  # fmt: skip
    assert [r["params"]["a"] for r in found[::8]] == [0.0, 0.5, 1.0]
    assert len({r["seed"] for r in found}) == len(found)
    assert len(lines(out, "scores")) == 3 * len(found)
    meta = json.loads((out / "meta.json").read_text())
    assert meta["schema"] == 1 and "finished" in meta and meta["tokens"] > 0
    assert "arm_help" in meta["plan"]["formula"] and set(meta["git"] or {}) <= {"revision", "dirty"}


def test_a_sweep_logs_raw_text_once_and_takes_chats(tmp_path, caplog):
    """Once for all formulas and rewards."""
    bare = {name: spec.model_copy(update={"template": None})
            for name, spec in run_of(tmp_path).models.items()}  # fmt: skip
    run = run_of(tmp_path, **SHARED, generate={"max_new_tokens": 2})
    run = run.model_copy(update={"models": bare})
    with caplog.at_level(logging.WARNING, "descant"):
        assert sweep(run, tmp_path / "raw")
    said = [one for one in caplog.messages if "text is read as it is" in one]
    named = [name for one in said for name in one.partition(":")[0].split(", ")]
    assert sorted(named) == ["arm_harm", "arm_help", "base", "reward_harm", "reward_help"]
    caplog.clear()
    run = run.model_copy(update={"data": run.data.model_copy(update={"chat": True})})
    with caplog.at_level(logging.WARNING, "descant"):
        assert sweep(run, tmp_path / "chat")
    assert not [one for one in caplog.messages if "text is read as it is" in one]
    raw, chat = lines(tmp_path / "raw"), lines(tmp_path / "chat")
    assert [one["prompt"][0]["content"] for one in chat] == [one["prompt"] for one in raw]
    assert [one["text"] for one in chat] != [one["text"] for one in raw]


def test_a_row_is_what_the_decoder_gives_for_its_seed_alone(whole):
    run, out = whole
    decoder = descant.compile(run.formula, run.models, params=run.params)
    for record in random.Random(0).sample(lines(out), 5):
        alone = decoder.generate(
            record["prompt"], params=record["params"], seed=record["seed"], temperature=1.0,
            max_new_tokens=12,
        )[0]  # fmt: skip
        assert (alone.text, alone.token_ids) == (record["text"], record["token_ids"])


def test_formulas_have_the_points_at_which_they_differ(tmp_path):
    run = run_of(tmp_path, **SHARED, front=None)
    arms, plain, merged = settings_of(run)
    assert len(arms.points) == 4 and len(plain.points) == 2 and len(merged.points) == 8
    assert plain.points == ({"temperature": 0.0}, {"temperature": 1.0})
    assert arms.point_index == (0, 1, 0, 1, 2, 3, 2, 3)


def test_merged_adapters_and_temperatures_are_rows(tmp_path):
    """The merge against peft's own, and every row against its decoder alone."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = run_of(tmp_path, **SHARED, front=None, score=None)
    sweep(run, tmp_path / "out")
    found = lines(tmp_path / "out")
    assert len(found) == (4 + 2 + 8) * 4 * 2
    cold = [r for r in found if r["formula"] == "plain" and r["params"]["temperature"] == 0]
    assert cold[0]["token_ids"] == cold[1]["token_ids"]

    specs = run.models
    base = AutoModelForCausalLM.from_pretrained(specs["base"].path, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, specs["arm_help"].adapter, adapter_name="arm_help")
    model.load_adapter(specs["arm_harm"].adapter, adapter_name="arm_harm")
    model.add_weighted_adapter(["arm_help", "arm_harm"], [2.0, 1.0], "soup", "cat")
    model.set_adapter("soup")
    merged = model.merge_and_unload().eval()
    spec = {"model": merged, "tokenizer": specs["base"].path, "template": specs["base"].template}
    record = next(r for r in found if r["formula"] == "w" and r["params"] == {
        "a": 1.0, "b": 2.0, "temperature": 1.0})  # fmt: skip
    alone = descant.compile("base + a*soup", {"base": specs["base"], "soup": spec}, params={"a": 1})
    said = alone.generate(record["prompt"], seed=record["seed"], temperature=1, max_new_tokens=12)
    assert said[0].token_ids == record["token_ids"]


def test_heads_of_a_run_file(tmp_path):
    """A file next to it is found there; the models of the formula after it are released."""
    save_file({"weight": torch.ones(1, 128) / 8}, tmp_path / "warm.safetensors")
    heads = {
        "early": {"head": "own", "on": "base", "layer": 0},
        "warm": {"head": "warm.safetensors", "on": "base", "layer": 2},
    }
    formulas = {
        "dola": "plausible(base, 0.1) - a*head(base, early)",
        "probed": "where(head(base, warm) > a, base, base@none)",
        "arm": "base + a*arm_help",
    }
    changes = {"formula": None, "formulas": formulas, "models": SPECS | heads, "front": None}
    run = read_run_file(written(tmp_path, **changes, output=str(tmp_path / "out")))
    assert run.models["warm"].head == str(tmp_path / "warm.safetensors")
    assert run.models["early"].head == "own"
    sweep(run, tmp_path / "out")
    models = SPECS | {name: run.models[name] for name in heads}
    rows = lines(tmp_path / "out")
    assert {row["formula"] for row in rows} == {*formulas}
    for row in rows[:6] + rows[-6:]:
        decoder = descant.compile(formulas[row["formula"]], models, params={"a": 0.5})
        [one] = decoder.generate(
            row["prompt"], params=row["params"], seed=row["seed"], max_new_tokens=12,
            temperature=1.0,
        )  # fmt: skip
        assert one.text == row["text"]


def child(run, out: Path) -> multiprocessing.Process:
    """A process of its own that sweeps; forked, so that it begins at once."""
    process = multiprocessing.get_context("fork").Process(target=sweep, args=(run, out))
    process.start()
    return process


def size(out: Path, stem: str = "completions") -> int:
    file = out / f"{stem}.jsonl"
    return file.stat().st_size if file.exists() else 0


def test_killed_at_any_moment_nothing_is_lost_and_nothing_doubled(whole, tmp_path):
    run, expected = whole
    out, all_of_it = tmp_path / "out", (expected / "completions.jsonl").stat().st_size
    draw, ends = random.Random(7), []
    slower = run.generate.model_copy(update={"batch_size": 3})
    run = run.model_copy(update={"generate": slower})
    for part in (0.2, 0.2, 0.2, math.inf):  # the last: as soon as there is a score
        process = child(run, out)
        until = size(out) + draw.random() * part * all_of_it
        while process.is_alive() and size(out) < until and not size(out, "scores"):
            time.sleep(0.0005)
        process.kill()
        process.join()
        ends.append(process.exitcode)
    assert ends == [-signal.SIGKILL] * 4
    assert len(lines(out)) == len(lines(expected))
    assert (out / "scores.jsonl").stat().st_size, "killed while it scored, perhaps within a line"
    with (out / "completions.jsonl").open("a") as torn:
        torn.write('{"schema": 1, "formula": "form')
    sweep(run, out)
    assert lines(out) == lines(expected)
    assert lines(out, "scores") == lines(expected, "scores")


def test_components_are_the_same_after_a_stop(tmp_path):
    generate = {"max_new_tokens": 12, "num_return_sequences": 2, "sample_components": True}
    changes = {"score": None, "front": None, "generate": generate}
    run = run_of(tmp_path, formula="mix(1-a: base + arm_help, a: base + arm_harm)", **changes)
    whole, out = tmp_path / "whole", tmp_path / "out"
    sweep(run, whole)
    shutil.copytree(whole, out)
    text = (out / "completions.jsonl").read_bytes()
    (out / "completions.jsonl").write_bytes(text[: len(text) // 3])
    sweep(run, out)
    assert lines(out) == lines(whole)
    heated = generate | {"temperature": 0.5}
    with pytest.raises(RunFileError, match="sample_components: true is for temperature 1"):
        run_of(tmp_path, **{**changes, "generate": heated})
    with pytest.raises(RunFileError, match="sample_components: true is for temperature 1"):
        run_of(tmp_path, **changes, sweep={"temperature": [0.5, 1]})
    with pytest.raises(descant.FormulaError, match="this is no single mix"):
        sweep(run_of(tmp_path, **changes), out)


@pytest.mark.parametrize("draft", ["arm_help", "base | top_k(40)", "prompt", "auto"])
def test_a_drafted_sweep_is_the_same_also_after_a_stop(tmp_path, draft):
    generate = {"max_new_tokens": 12, "num_return_sequences": 2, "temperature": 0.8}
    changes = {"score": None, "front": None}
    sweep(run_of(tmp_path, **changes, generate=generate), plain := tmp_path / "plain")
    drafted = run_of(tmp_path, **changes, generate=generate | {"draft": draft, "draft_length": 3})
    sweep(drafted, out := tmp_path / "out")
    assert lines(out) == lines(plain)
    text = (out / "completions.jsonl").read_bytes()
    (out / "completions.jsonl").write_bytes(text[: len(text) // 3])
    sweep(drafted, out)
    assert lines(out) == lines(plain)


def test_a_draft_that_cannot_be_is_refused_before_anything_is_loaded(tmp_path):
    changes = {"score": None, "front": None}
    for generate, message in (
        ({"draft": "arm_hlep"}, "did you mean arm_help"),
        ({"draft": "arm_help", "draft_length": 0}, "draft_length must be at least 1"),
        ({"draft": "arm_help", "draft_length": "some"}, "'adaptive'"),
        ({"draft_length": 3}, "give draft, too"),
        ({"draft": "base", "sample_components": True}, "leave one of them out"),
    ):
        with pytest.raises(descant.DescantError, match=message):
            settings_of(run_of(tmp_path, **changes, generate=generate))


@pytest.mark.slow
def test_two_processes_share_a_sweep_and_one_goes_on(whole, tmp_path):
    _, expected = whole
    file, out = written(tmp_path), tmp_path / "out"
    launch = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "descant", "sweep", str(file), "--output", str(out),
    ]  # fmt: skip
    done = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines(out) == lines(expected) and lines(out, "scores") == lines(expected, "scores")
    assert not list(out.glob("*.[0-9].jsonl"))
    assert json.loads((out / "meta.json").read_text())["processes"] == 2
    # Half of it as if two processes had been killed, then one goes on alone.
    kept = (out / "completions.jsonl").read_text().splitlines(keepends=True)
    (out / "completions.jsonl").write_text("".join(kept[:7]))
    (out / "completions.0.jsonl").write_text("".join(kept[5:9]))
    (out / "completions.1.jsonl").write_text("".join(kept[9:13]) + kept[13][:20])
    assert sweep(read_run_file(file), out)
    assert lines(out) == lines(expected)


def test_scores_may_be_added_and_nothing_else_changed(whole, tmp_path):
    run, _ = whole
    out = tmp_path / "out"
    sweep(run.model_copy(update={"score": None}), out)
    before = (out / "completions.jsonl").read_bytes()
    sweep(run, out)
    assert (out / "completions.jsonl").read_bytes() == before
    assert {name for line in lines(out, "scores") for name in line["scores"]} >= {"help", "harm"}
    for change in (
        {"params": {"a": 0.7}},
        {"generate": run.generate.model_copy(update={"seed": 1})},
        {"score": {"help": run.score["harm"]}},
    ):
        with pytest.raises(RunFileError, match="holds another run"):
            sweep(run.model_copy(update=change), out)


def test_one_sweep_at_a_time(whole):
    from descant.results.lock import writing

    run, out = whole
    with writing(out), pytest.raises(RunFileError, match="another process writes"):
        sweep(run, out)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full disk to write to")
def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    journal = Journal(tmp_path, "lines")
    journal.add([{"a": 1}])
    full = Journal(tmp_path, "full")
    full.file.symlink_to("/dev/full")
    said = "No space left on device; make room there; what is finished is kept"
    with pytest.raises(DiskError, match=said), resumable():
        full.add([{"a": 2}])
    assert journal.records() == [{"a": 1}]


def test_a_reward_that_is_not_a_number_is_named(whole, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file
    from sweeps import SPECS

    run, _ = whole
    broken = tmp_path / "broken"
    shutil.copytree(SPECS["reward_harm"]["path"], broken)
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"] *= float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    out = tmp_path / "out"
    models = {**SPECS, "odd": {**SPECS["reward_harm"], "path": str(broken)}}
    odd = run_of(tmp_path, models=models, data=run.data.model_dump())
    odd = odd.model_copy(update={"score": {**odd.score, "odd": odd.score["harm"].model_copy(
        update={"reward": "odd"})}})  # fmt: skip
    with pytest.raises(RunFileError, match=r"score.odd is nan for formula, point \d, prompt \d"):
        sweep(odd, out)
    assert len(lines(out)) == 24
    assert {name for line in lines(out, "scores") for name in line["scores"]} >= {"help", "harm"}
