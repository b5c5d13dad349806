"""docs/training.md says what the code does: its snippet runs, its file is read, its names exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import descant
from descant.train import read_train_file
from descant.train.trainfile import Lora, TrainFile

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_snippet_runs(capsys: Any) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    space: dict[str, Any] = {}
    exec(compile(code, "training.md", "exec"), space)
    said = capsys.readouterr().out.splitlines()
    assert "train: 16 of 16 rows used" in said
    assert said[-2].startswith("1.0 ")
    plain = descant.compile("base", {"base": space["base"]})
    asked = space["prompt"].format(30)
    assert said[-1] != plain.generate(asked, max_new_tokens=8)[0].text


def test_the_file_is_read(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (tmp_path / "train.yaml").write_text(text, encoding="utf-8")
    said = read_train_file("arm", tmp_path / "train.yaml")
    assert said.beta == 0.05 and "\n" in (said.model.template or "")


def test_every_key_is_documented() -> None:
    for key in [*TrainFile.model_fields, *Lora.model_fields]:
        assert re.search(rf"\b{key}\b", PAGE), key
