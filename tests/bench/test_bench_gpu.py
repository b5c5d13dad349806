"""``bench.gpu``: its dry run says every number, and no failure loses the others."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tape import Tape, on_tape

from bench import gpu, gpu_parts
from descant.bench import workloads
from descant.bench.workloads import Pool


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory) -> dict:
    file = tmp_path_factory.mktemp("gpu") / "numbers.json"
    gpu.main(["--tiny", "--json", str(file)])
    return json.loads(file.read_text(encoding="utf-8"))


def test_the_dry_run_says_every_number(dry_run) -> None:
    assert dry_run["skipped"] == [] and dry_run["failed"] == {}
    assert (dry_run["device"], dry_run["dtype"], dry_run["torch"]) == (
        "cpu", "float32", torch.__version__,
    )  # fmt: skip
    numbers = {one["name"]: one["value"] for one in dry_run["numbers"]}
    assert all(math.isfinite(value) and value >= 0 for value in numbers.values())
    for rows in gpu_parts.TINY.rows:
        assert numbers[f"products alone, {rows} rows"] > 0
        for formula in gpu_parts.FORMULAS:
            for way in gpu_parts.WAYS:
                assert numbers[f"{formula}, {rows} rows, {way}: step"] > 0
                assert numbers[f"{formula}, {rows} rows, {way}: over the floor of its bytes"] > 0
            assert numbers[f"{formula}, {rows} rows, eager: share of tokens as captured"] == 1
    for name in (
        "ragged, 8 rows, captured: step", "join, 12 requests in 8 slots, eager: longest pause",
        "service, two formulas of 4 rows, captured: tokens per second",
        "tiny-grouped, 4 rows, captured: tokens per second", "kernels of rerank: launches",
        "rotate_into_pages, 3 rows, kernel", "gated, 1 rows, torch",
    ):  # fmt: skip
        assert numbers[name] > 0
    seconds = [one["seconds"] for one in dry_run["numbers"]]
    assert seconds == sorted(seconds)


def test_a_step_is_over_its_products(dry_run) -> None:
    numbers = {one["name"]: one["value"] for one in dry_run["numbers"]}
    step, products = numbers["one, 3 rows, eager: step"], numbers["products alone, 3 rows"]
    assert numbers["one, 3 rows, eager: over its products, aim 1.15"] == pytest.approx(
        step / products
    )


def planted(monkeypatch, plan) -> None:
    monkeypatch.setattr(gpu_parts, "plan", plan)
    monkeypatch.setattr(gpu, "RESULTS", None)  # which a run that writes would need


def test_a_part_that_fails_loses_no_other(monkeypatch, capsys, tmp_path) -> None:
    def plan(scene, say):
        yield "first", lambda: say("one", 1.0, "ms")
        yield "second", lambda: 1 / 0
        yield "third", lambda: say("two", 2.0)

    planted(monkeypatch, plan)
    file = tmp_path / "kept" / "numbers.json"
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--tiny", "--json", str(file)])
    assert ended.value.code == 1
    kept = json.loads(file.read_text(encoding="utf-8"))
    assert [one["name"] for one in kept["numbers"]] == ["one", "two"]
    assert kept["failed"] == {"second": "ZeroDivisionError: division by zero"}
    assert capsys.readouterr().out.splitlines()[-1] == "failed: second"


def test_what_there_is_no_time_for_is_said(monkeypatch, capsys) -> None:
    def plan(scene, say):
        yield "first", lambda: say("one", 1.0)
        yield "second", lambda: say("two", 2.0)

    planted(monkeypatch, plan)
    gpu.main(["--tiny", "--seconds", "0"])
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "skipped, out of time: first, second" and "1 ms" not in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="torch sees no GPU; --tiny is the dry run"):
        gpu.main([])


def test_the_name_of_its_file() -> None:
    assert gpu.slug("NVIDIA H200 (SXM)") == "nvidia-h200-sxm"


def test_recordings_are_counted(monkeypatch, tmp_path) -> None:
    """On tapes: as many as were made, and none in later runs."""
    live = on_tape(monkeypatch)
    for module in (workloads, gpu_parts):
        compile = module.compile
        recording = lambda *a, compile=compile, **o: live(compile(*a, **o))  # noqa: E731
        monkeypatch.setattr(module, "compile", recording)
    scene = gpu_parts.Scene(gpu_parts.TINY, Pool("tiny", torch.float32, "cpu", tmp_path))
    for formula in gpu_parts.FORMULAS:
        said: dict[str, float] = {}
        Tape.made = []
        for way in gpu_parts.WAYS:
            gpu_parts.steps(
                scene, lambda name, value, unit="", said=said: said.update({name: value}),
                formula, 3, way, scene.prompts(3).tolist(),
            )  # fmt: skip
        name = f"{formula}, 3 rows, captured: recordings in"
        assert said[f"{name} the first run"] == len(Tape.made) > 0
        assert said[f"{name} later runs, 0 expected"] == 0
        assert said[f"{formula}, 3 rows, eager: recordings in the first run"] == 0
        assert said[f"{formula}, 3 rows, eager: share of tokens as captured"] == 1
