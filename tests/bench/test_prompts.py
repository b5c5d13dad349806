"""The benchmark of prompts: both read the same, and a difference is seen."""

from __future__ import annotations

import json
import sys

from bench import prompts


def test_a_short_one(monkeypatch, tmp_path, capsys) -> None:
    file = tmp_path / "prompts.json"
    given = ["--longest", "128", "--runs", "1", "--steps", "6", "--output", str(file)]
    monkeypatch.setattr(sys, "argv", ["prompts", *given])
    prompts.main()
    content = json.loads(file.read_text())
    [read] = content["reading"]
    assert read["tokens"] == 128 and read["same"] and len(read["ours"]) == 1
    assert content["medians"].keys() == {"short", "one long", "long"}
    assert "128 tokens:" in capsys.readouterr().out
