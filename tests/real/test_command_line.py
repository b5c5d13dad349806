"""The command line on a run file that names a GGUF file beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from command_line import command

RUN = """\
formula: smol
models:
  smol: {path: ./model.gguf, dtype: float32}
generate: {max_new_tokens: 8}
data: {path: prompts.jsonl, field: prompt}
output: out
"""


CHAT = [{"role": "user", "content": "What is the capital of Italy?"}]


@pytest.fixture
def folder(smollm2, tmp_path) -> Path:
    os.symlink(smollm2, tmp_path / "model.gguf")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": CHAT}), encoding="utf-8")
    (tmp_path / "run.yaml").write_text(RUN, encoding="utf-8")
    return tmp_path


def test_run(folder, plain_smol, tmp_path_factory) -> None:
    """From another folder: the model's path is the run file's."""
    other = tmp_path_factory.mktemp("other")
    done = command("run", folder / "run.yaml", cwd=other)
    assert done.returncode == 0, done.stderr
    file = next(other.rglob("completions.jsonl"))
    [line] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert line["text"] == plain_smol.text(plain_smol.generate(CHAT, 8))


def test_explain(folder) -> None:
    done = command("explain", "run.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "49152 tokens; ends at [2]" in done.stdout
    done = command("explain", "run.yaml", "--render", "in 1987", cwd=folder)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
