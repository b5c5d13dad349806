"""``descant bench``: what it compares is the same decoding, and its table is what it measured."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import descant
from descant.bench import plain, shapes
from descant.bench.measure import WORKLOADS, K, W
from descant.cli import app

CPU = {"dtype": torch.float32, "device": "cpu"}
PROMPTS = torch.tensor([[5, 9, 200, 31], [7, 7, 1000, 12]])


@pytest.mark.parametrize("name", [name for name, one in WORKLOADS.items() if not one.lora])
def test_both_ways_decode_the_same_tokens(name) -> None:
    workload = WORKLOADS[name]
    models = {"base": shapes.language_model("tiny", 0, **CPU)}
    models |= {
        f"arm_{i}": shapes.language_model("tiny", 1 + i, **CPU) for i in range(workload.arms)
    }
    rerank = None
    if workload.rerank:
        models["reward"] = shapes.reward_model("tiny", 9, **CPU)
        rerank = (models["reward"], K, W)
    arms = [(models[f"arm_{i}"], 0.5) for i in range(workload.arms)]
    theirs = plain.generate(models["base"], PROMPTS, 8, arms, rerank)
    ours = descant.compile(workload.formula, models=models).generate(
        PROMPTS.tolist(), max_new_tokens=8, eos_token_id=[]
    )
    assert [one.token_ids for one in ours] == theirs.tolist()


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


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["--shape", "tny"], "did you mean tiny?"),
        (["--workload", "rernk"], "did you mean rerank?"),
        (["--dtype", "int8"], "there is no dtype 'int8'"),
    ],
)
def test_what_it_cannot_measure(given, problem) -> None:
    result = CliRunner().invoke(app, ["bench", *given])
    assert isinstance(result.exception, ValueError) and problem in str(result.exception)
