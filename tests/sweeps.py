"""Sweeps for tests: run files over the demo models, and what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from descant.demo import PROMPTS, models
from descant.inputs.runfile import RunFile, validated
from descant.inputs.yaml import dump_yaml

ROOT = Path(__file__).parents[1]
SPECS = models()


def content(folder: Path, **changes: Any) -> dict[str, Any]:
    """A small sweep over three points and four prompts; its data file is written."""
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS[:4]))
    found: dict[str, Any] = {
        "formula": "base + (1-a)*arm_help + a*arm_harm",
        "models": SPECS,
        "params": {"a": 0.5},
        "generate": {"max_new_tokens": 12, "temperature": 1.0, "num_return_sequences": 2},
        "data": {"path": str(data)},
        "sweep": {"a": [0, 0.5, 1]},
        "score": {"help": "reward_help", "harm": "reward_harm"},
        "front": {"preference": "(1-a)*help + a*harm"},
    }
    return {key: value for key, value in {**found, **changes}.items() if value is not None}


def run_of(folder: Path, **changes: Any) -> RunFile:
    """The same, as a run file."""
    return validated(content(folder, **changes), "here")


def written(folder: Path, **changes: Any) -> Path:
    """The same, on disk."""
    file = folder / "run.yaml"
    file.write_text(dump_yaml(content(folder, **changes)))
    return file


def lines(folder: Path, stem: str = "completions") -> list[dict[str, Any]]:
    """What a folder holds, sorted by key, without what a clock said; every line is whole."""
    text = (folder / f"{stem}.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    for record in records:
        record.pop("elapsed", None)
    return sorted(records, key=lambda r: (r["formula"], r["point"], r["id"], r["sample"],
                                          sorted(r.get("scores", ()))))  # fmt: skip
