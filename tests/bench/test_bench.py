"""``descant bench``: what it compares is the same decoding, and its table is what it measured."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tape import on_tape
from typer.testing import CliRunner

import descant
from descant.bench import plain, shapes
from descant.bench.measure import Clock, Settings, measure, ours, theirs
from descant.bench.table import _table
from descant.bench.workloads import LORA, WORKLOADS, Pool
from descant.cli import app

CPU = {"dtype": torch.float32, "device": "cpu"}
PROMPTS = torch.tensor([[5, 9, 200, 31], [7, 7, 1000, 12]])
UNSHARED = [name for name, one in WORKLOADS.items() if one.shares != LORA]


@pytest.mark.parametrize("name", UNSHARED)
def test_both_ways_decode_the_same_tokens(name, tmp_path) -> None:
    workload, pool = WORKLOADS[name], Pool("tiny", torch.float32, "cpu", tmp_path)
    clock = Clock("cpu")
    expected = theirs(workload, pool, PROMPTS)["plain"](8, clock).tolist()
    assert ours(pool.decoder(workload), PROMPTS)(8, clock) == expected
    assert clock.seconds > 0


def test_prompts_that_are_padded_are_read_as_they_are_alone(tmp_path) -> None:
    pool = Pool("tiny", torch.float32, "cpu", tmp_path)
    arms = [(pool["arm_0"], 0.5)]
    text = PROMPTS[:1, 2:]
    padded, mask = torch.tensor([[0, 0, *text[0].tolist()]]), torch.tensor([[0, 0, 1, 1]])
    alone = plain.generate(pool["base"], text, 8, arms)
    both = torch.cat((padded, PROMPTS[1:])), torch.cat((mask, torch.ones(1, 4, dtype=torch.long)))
    together = plain.generate(pool["base"], both[0], 8, arms, mask=both[1])
    assert together[0].tolist() == alone[0].tolist()
    assert together[1].tolist() == plain.generate(pool["base"], PROMPTS[1:], 8, arms)[0].tolist()


def test_the_adapters_are_as_peft_reads_them(tmp_path) -> None:
    from peft import PeftModel

    base = shapes.language_model("tiny", 0, **CPU)
    folder = shapes.lora("tiny", 3, tmp_path / "arm")
    models = {"base": base, "arm": {"adapter": str(folder), "on": "base"}}
    found = descant.compile("arm", models=models).scores(PROMPTS[0].tolist(), [])
    with torch.no_grad():
        alone = base(PROMPTS[:1]).logits[0, -1]
        expected = PeftModel.from_pretrained(base, str(folder)).eval()(PROMPTS[:1]).logits[0, -1]
    torch.testing.assert_close(found[0], expected.log_softmax(-1), atol=1e-4, rtol=1e-4)
    assert (expected - alone).abs().max() > 1e-3


def test_the_command(tmp_path) -> None:
    file = tmp_path / "bench.json"
    given = ["--shape", "tiny", "--runs", "2", "--max-new-tokens", "2", "--prompt-length", "8"]
    result = CliRunner().invoke(app, ["bench", *given, "--output", str(file)])
    assert result.exit_code == 0, result.output
    said = json.loads(file.read_text())
    assert [one["name"] for one in said["results"]] == list(WORKLOADS)
    assert {"device", "dtype", "torch", "transformers", "threads", "processor"} <= said.keys()
    for one in said["results"]:
        assert one["name"] in result.output
        assert {len(runs) for runs in one["runs"].values()} == {2}


def test_recorded_steps_stand_beside_eager_ones(monkeypatch) -> None:
    on_tape(monkeypatch)
    settings = Settings("tiny", prompt_length=8, new=4, runs=1, capture=True)
    [result] = measure(settings, ["one model"])
    assert list(result.runs) == ["ours", "eager", "plain", "bare"]
    shown = [column.header for column in _table([result]).columns]
    assert shown[1:3] == ["ours", "eager"] and shown[-1] == "eager/ours"
    eager = next(measure(replace(settings, capture=False), ["one model"]))
    assert "eager" not in eager.runs
    assert "eager" not in [column.header for column in _table([eager]).columns]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--shape", "tny"], "did you mean 'tiny'?"),
        (["--workload", "rernk"], "did you mean 'rerank'?"),
        (["--dtype", "int8"], "there is no dtype 'int8'"),
        (["--device", "cpu", "--capture"], "--capture needs a GPU"),
    ],
)
def test_what_it_cannot_measure(given, problem) -> None:
    result = CliRunner().invoke(app, ["bench", *given])
    assert isinstance(result.exception, ValueError) and problem in str(result.exception)
