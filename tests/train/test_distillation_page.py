"""docs/distillation.md says what the code does: its snippet runs, its file is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_pages import Page

from descant.inputs.runfile import read_run_file
from descant.train import read_train_file

PAGE = Page("docs/distillation.md")
EXAMPLES = Path(__file__).parents[2] / "examples" / "distill"


def test_the_snippet_runs(tmp_path, monkeypatch) -> None:
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    [(_, out)] = PAGE.run()
    assert out.splitlines()[-1] == "2 steps"


def test_the_files_are_read(tmp_path) -> None:
    [text] = PAGE.code("yaml")
    (tmp_path / "train.yaml").write_text(text, encoding="utf-8")
    assert read_train_file("distill", tmp_path / "train.yaml").loss == "kl"
    recipe = read_train_file("distill", EXAMPLES / "distill.yaml")
    assert recipe.teacher is not None
    run = read_run_file(recipe.teacher.path)
    assert [*run.named.values()] == ["base + 0.5*arm_help + 0.5*arm_harm"]
