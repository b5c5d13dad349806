"""docs/training.md says what the code does: its snippet runs, its file is read, its names exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from doc_pages import Page

import descant
from descant.models.adapters.vector_files import read_vector
from descant.train import Lora, ProbeFile, TrainFile, VectorFile, read_train_file

PAGE = Page("docs/training.md")


def test_the_snippet_runs() -> None:
    space: dict[str, Any] = {}
    [(_, out), (_, of_vector)] = PAGE.run(names=space)
    lines = out.splitlines()
    assert "train: 16 of 16 rows used" in lines
    assert lines[-2].startswith("1.0 ")
    plain = descant.compile("base", {"base": space["base"]})
    prompt = space["prompt"].format(30)
    assert lines[-1] != plain.generate(prompt, max_new_tokens=8)[0].text
    assert of_vector.splitlines() == [
        "pairs: 16 of 16 rows used",
        f"{space['folder']}/vector/vector.safetensors: 3 layers, each of which tells 100.0% of the "
        "pairs apart",
        "[(1, 1.0), (2, 1.0), (3, 1.0)]",
        "[1, 2, 3] torch.Size([128])",
    ]
    half = read_vector("half", space["folder"] / "half.safetensors")
    assert torch.equal(half[2] * 2, space["directions"][2]) and list(half) == [2]


def test_the_files_are_read(tmp_path: Path) -> None:
    texts = PAGE.code("yaml")
    read = []
    for method, text in zip(("arm", "vector", "probe"), texts, strict=True):
        (tmp_path / "train.yaml").write_text(text, encoding="utf-8")
        read.append(read_train_file(method, tmp_path / "train.yaml"))
    arm, vector, probe = read
    assert arm.beta == 0.05 and "\n" in (arm.model.template or "")
    assert vector.layers == list(range(8, 21)) and vector.tokens == "last"
    assert probe.layer == 14 and probe.positive == "refuses"


def test_every_key_is_documented() -> None:
    kinds = (TrainFile, Lora, VectorFile, ProbeFile)
    for key in (key for kind in kinds for key in kind.model_fields):
        assert re.search(rf"\b{key}\b", PAGE.text), key
