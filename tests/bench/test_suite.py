"""The suite of ``bench/``: its ways decode the same, its numbers are theirs, and targets are said
where they are stated and nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tape import Tape, on_tape

from bench import report, suite
from bench.benchmarks import BENCHMARKS, SIZES, Case, Ratio
from bench.joining import pauses
from bench.ways import Ways
from descant.bench.exact import difference
from descant.bench.measure import Clock, Result, Settings
from descant.bench.workloads import LORA, Pool, fused

TINY = Settings(shape="tiny", prompt_length=8, new=4, runs=2)
SMALL = replace(SIZES["cpu"].of(8, 4), ks=(2,), batches=(1, 3), contexts=(16,), slots=2)
CASES = {f"{name}: {case.name}": case for name in BENCHMARKS for case in BENCHMARKS[name](SMALL)}


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Pool:
    return Pool("tiny", torch.float32, "cpu", tmp_path_factory.mktemp("adapters"))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_case_is_measured(case, pool) -> None:
    found = suite.row(case, pool, replace(TINY, runs=1))
    assert list(found["runs"]) == list(case.ways)
    assert all(run > 0 for runs in found["runs"].values() for run in runs)
    assert found["formula"] == case.workload.formula and found["floor"] > 0
    said = found["shown"]
    times = {**{way: runs[0] for way, runs in found["runs"].items()}, "floor": found["floor"]}
    rows = found["rows"] if said["rows"] else 1
    assert said["value"] == pytest.approx(rows * times[said["top"]] / times[said["bottom"]])
    assert said["met"] is None  # nothing is asked of this shape


def test_rows_of_eleven_weights_are_eleven_runs(pool) -> None:
    case = next(c for c in CASES.values() if c.vectors and not c.workload.shares)
    made = Ways(case, pool, TINY).by_name()
    clock = Clock("cpu")
    rows, runs = made["ours"](6, clock), made["plain"](6, clock)
    assert rows == [run[i].tolist() for i in range(4) for run in runs]


def test_requests_in_slots_are_answered_as_in_static_batches(pool) -> None:
    changes = {"batch_size": 2, "prompt_length": 9}
    case = Case("two models", fused(1), ways=("ours", "plain"), changes=changes, joining=5)
    made = Ways(case, pool, replace(TINY, new=7))
    clock = Clock("cpu")
    ways = made.by_name()
    slots = ways["ours"](7, clock)
    assert slots == ways["plain"](7, clock)
    assert [len(one) for one in slots] == made.arrivals.answers(7)
    assert len({len(one) for one in slots}) > 2
    assert len({len(text) for text in made.arrivals.prompts}) > 2
    waited = pauses(made.decoder, made.arrivals, 7)
    assert len(waited) == sum(map(len, slots)) - 5 and min(waited) > 0


def test_what_differs_is_seen(pool) -> None:
    prompts = pool.prompts(2, 6).tolist()
    one, other = pool.decoder(fused(0)), pool.decoder(fused(1))
    assert difference(one, pool.decoder(fused(0)), prompts, 4) == {
        "same": True, "share": 1.0, "scores": 0.0,
    }  # fmt: skip
    found = difference(one, other, prompts, 4)
    assert not found["same"] and found["share"] < 1 and found["scores"] > 0.01


def test_recorded_steps_are_compared_with_eager_ones(pool, monkeypatch) -> None:
    """A replay runs no line of Python: what is compared are the scores that it writes."""
    eager, live = pool.decoder(fused(1), False), on_tape(monkeypatch)
    captured = live(pool.decoder(fused(1)))
    prompts = pool.prompts(3, 6).tolist()  # a bucket of four rows
    found = difference(captured, eager, prompts, 5)
    assert found["same"] and found["share"] == 1 and found["scores"] < 1e-4
    assert captured.session.engine.graphs.made == len(Tape.made) == 3
    other = difference(captured, pool.decoder(fused(0), False), prompts, 5)
    assert not other["same"] and other["scores"] > 0.01


def test_targets_are_said_where_they_are_stated() -> None:
    stated = {
        kind: {
            (name, case.name): case.ratio_for(settings)
            for name, cases in BENCHMARKS.items()
            for case in cases(SIZES[kind])
        }
        for kind, settings in (
            ("cuda", Settings("llama-2-7b", device="cuda:0", dtype="bfloat16")),
            ("cpu", Settings("small")),
        )
    }
    asked = {
        kind: {where: one for where, one in found.items() if one.met(1.0) is not None}
        for kind, found in stated.items()
    }
    assert asked["cuda"] == {
        ("separate", "one model"): Ratio("ours", "floor", at_most=1.15),
        ("separate", "three models"): Ratio("ours", "floor", at_most=1.15),
        ("shared", "two LoRA arms"): Ratio("ours", "one model", at_most=1.35),
        ("args", "k=10"): Ratio("ours", "floor", at_most=1.2),
        ("whole", "LoRA arms, rerank"): Ratio("plain", "ours", at_least=8),
        ("batches", "batch 32"): Ratio("one row", "ours", at_least=20, rows=True),
    }
    assert asked["cpu"] == {
        ("separate", "three models"): Ratio("ours", "bare", at_most=1.05),
        ("shared", "two LoRA arms"): Ratio("ours", "bare", at_most=1.5),
        ("shared", "three prompts"): Ratio("ours", "bare", at_most=1.5),
        ("vectors", "LoRA arms"): Ratio("plain", "ours", at_least=5),
        ("vectors", "separate arms"): Ratio("plain", "ours", at_least=5),
    }
    for kind in stated:
        for name, cases in BENCHMARKS.items():
            for case in cases(SIZES[kind]):
                for other in (Settings("tiny"), Settings("small", batch_size=8)):
                    assert case.ratio_for(other).met(1.0) is None, (name, case.name)


def test_what_counts_is_the_captured_way_where_there_is_one() -> None:
    ratio = Ratio("ours", "floor", at_most=1.15)
    result = Result("one", "base", 2.0, {"ours": [3.0, 5.0, 3.2]})
    assert suite.shown(ratio, result, 1)["value"] == 1.6
    assert suite.shown(ratio, result, 1)["met"] is False
    result.runs["captured"] = [2.2, 2.2, 2.2]
    found = suite.shown(ratio, result, 1)
    assert (found["top"], found["value"], found["met"]) == ("captured", 1.1, True)
    result.runs["one row"] = [1.1, 1.1, 1.1]
    faster = suite.shown(Ratio("one row", "ours", at_least=20, rows=True), result, 32)
    assert faster["value"] == 16 and faster["met"] is False


def test_the_command_and_its_report(tmp_path, capsys) -> None:
    file = tmp_path / "results.json"
    given = ["--shape", "tiny", "--prompt-length", "8", "--max-new-tokens", "4", "--runs", "2"]
    suite.main(["separate", *given, "--output", str(file)])
    suite.main(["whole", *given, "--output", str(file)])
    said = json.loads(file.read_text())
    assert list(said["results"]) == ["separate", "whole"]  # what was there stays
    assert {"device", "dtype", "torch", "transformers", "threads", "processor"} <= said.keys()
    for rows in said["results"].values():
        assert all({len(runs) for runs in row["runs"].values()} == {2} for row in rows)
    said["results"]["whole"][0]["shown"] |= {"at_least": 8, "value": 2.5, "met": False}
    said["results"]["separate"][0]["shown"] |= {"at_most": 1.15, "value": 1.1, "met": True}
    file.write_text(json.dumps(said))
    report.main([str(file)])
    text = (tmp_path / "results.md").read_text()
    assert "1 of 2 targets met" in text
    assert "- whole, LoRA arms, rerank: plain / ours 2.500, at least 8: **not met**" in text
    assert "- separate, one model: ours / bare 1.100, at most 1.15: met" in text
    assert "![ratios against targets](results.png)" in text
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_captured_and_eager_are_compared_in_one_run(tmp_path) -> None:
    file = tmp_path / "results.json"
    given = ["--shape", "tiny", "--max-new-tokens", "40", "--runs", "1", "--capture"]
    suite.main(["shared", "joining", *given, "--dtype", "float32", "--output", str(file)])
    rows = json.loads(file.read_text())["results"]["shared"]
    for row in rows:
        assert list(row["runs"])[:2] == ["ours", "captured"] and row["shown"]["top"] == "captured"
        assert row["captured_equals_eager"]["why_eager"] is None
        assert row["captured_equals_eager"]["same"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["sepaate"], "did you mean separate?"),
        (["--shape", "tny"], "did you mean tiny?"),
        (["--dtype", "int8"], "there is no dtype 'int8'"),
        (["--capture", "--device", "cpu"], "--capture needs a GPU"),
    ],
)
def test_what_it_cannot_measure(given, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        suite.main(given)


def test_adapters_leave_no_trace_on_what_they_are_measured_against(pool) -> None:
    decoder = pool.decoder(fused(2, LORA))
    assert not any(module._forward_hooks for module in pool["base"].modules())
    base = decoder.session.bound.lanes[0].model
    assert any(module._forward_hooks for module in base.modules())
    for one, other in zip(base.parameters(), pool["base"].parameters(), strict=True):
        assert one is other
