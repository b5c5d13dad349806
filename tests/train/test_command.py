"""The command line: what it trains, what it prints, and its exit code."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from command_line import command


def test_a_command_alone(zoo: Any, data: str, tmp_path: Path) -> None:
    sets = ["max_steps=2", "use_cpu=true", "disable_tqdm=true", "lora.r=2", "beta=0.05"]
    found = command(
        "train", "arm", "--model", zoo.path("base"), "--data", data, "--output",
        tmp_path / "arm", *(part for one in sets for part in ("--set", one)),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "train: 24 of 24 rows used" in found.stdout
    assert f"{tmp_path / 'arm'}: " in found.stdout
    assert (tmp_path / "arm" / "adapter_model.safetensors").is_file()


def test_what_is_wrong_is_said_and_exits_with_two(tmp_path: Path) -> None:
    found = command(
        "train", "arm", "--model", "a", "--data", "b.jsonl", "--output", tmp_path / "out",
        "--set", "lr=1",
    )  # fmt: skip
    assert found.returncode == 2
    said = "--set lr=1: there is no option or training argument lr; did you mean learning_rate?\n"
    assert found.stderr.endswith(said)  # other packages may say what they lack before
    assert not list(tmp_path.iterdir())


def test_weights_that_are_torn_cannot_be_read(zoo: Any, data: str, tmp_path: Path) -> None:
    shutil.copytree(zoo.path("base"), tmp_path / "base")
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    found = command(
        "train", "arm", "--model", tmp_path / "base", "--data", data, "--output", tmp_path / "arm",
        "--set", "use_cpu=true",
    )  # fmt: skip
    assert found.returncode == 2
    assert f"the weights in {tmp_path / 'base'} cannot be read: Error while deser" in found.stderr
    assert "written" not in found.stderr
