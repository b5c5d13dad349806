"""docs/training.md says what the code does: its snippet runs, its file is read, its names exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from doc_pages import Page

import descant
from descant.train import read_train_file
from descant.train.trainfile import Lora, TrainFile

PAGE = Page("docs/training.md")


def test_the_snippet_runs() -> None:
    space: dict[str, Any] = {}
    [(_, out)] = PAGE.run(names=space)
    lines = out.splitlines()
    assert "train: 16 of 16 rows used" in lines
    assert lines[-2].startswith("1.0 ")
    plain = descant.compile("base", {"base": space["base"]})
    prompt = space["prompt"].format(30)
    assert lines[-1] != plain.generate(prompt, max_new_tokens=8)[0].text


def test_the_file_is_read(tmp_path: Path) -> None:
    [text] = PAGE.code("yaml")
    (tmp_path / "train.yaml").write_text(text, encoding="utf-8")
    said = read_train_file("arm", tmp_path / "train.yaml")
    assert said.beta == 0.05 and "\n" in (said.model.template or "")


def test_every_key_is_documented() -> None:
    for key in [*TrainFile.model_fields, *Lora.model_fields]:
        assert re.search(rf"\b{key}\b", PAGE.text), key
