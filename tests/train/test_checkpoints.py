"""What a training resumes from: the newest checkpoint that is whole, and what it says of others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from descant.train import read_train_file
from descant.train.checkpoints import MANIFEST, fault_of
from descant.train.loop import train

LORA = {"r": 2}
STEPS = {"max_steps": 6, "save_steps": 2, "use_cpu": True, "disable_tqdm": True, "logging_steps": 1,
         "per_device_train_batch_size": 4, "learning_rate": 5e-3}  # fmt: skip
Train = Callable[..., list[str]]


@pytest.fixture(scope="module")
def learn(zoo: Any, data: str, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """``learn(folder, **training)``: train into a folder; what it says."""
    files = tmp_path_factory.mktemp("files")

    def make(folder: Path, **training: Any) -> list[str]:
        content = {"model": zoo.path("base"), "data": data, "lora": LORA, "output": str(folder),
                   "training": STEPS | training}  # fmt: skip
        file, lines = files / "train.yaml", []
        file.write_text(json.dumps(content))
        train(read_train_file("arm", file), lines.append)
        return lines

    return make


@pytest.fixture(scope="module")
def full(learn: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing has stopped."""
    folder = tmp_path_factory.mktemp("full") / "out"
    learn(folder)
    return folder


@pytest.fixture
def stopped(full: Path, tmp_path: Path) -> Path:
    """The same, stopped after its second checkpoint."""
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(full / "train.yaml", folder)
    for step in (2, 4):
        shutil.copytree(full / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def same(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def missing(file: Path) -> None:
    file.unlink()


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)


FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
         "adapter_model.safetensors", "adapter_config.json")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [missing, torn, flipped])
def test_a_checkpoint_with_a_damaged_file_is_not_whole(
    stopped: Path, damage: Callable[[Path], None], name: str
) -> None:
    checkpoint = stopped / "checkpoint-4"
    assert fault_of(checkpoint, 4) == ""
    damage(checkpoint / name)
    said = f"it has no {name}" if damage is missing else f"{name} is not as it was written"
    assert fault_of(checkpoint, 4) == said
    assert fault_of(stopped / "checkpoint-2", 3) == "trainer_state.json is not of step 3"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [missing, torn])
def test_so_is_one_without_a_manifest(
    stopped: Path, damage: Callable[[Path], None], name: str
) -> None:
    """As an earlier version wrote them: every file is read."""
    checkpoint = stopped / "checkpoint-4"
    (checkpoint / MANIFEST).unlink()
    assert fault_of(checkpoint, 4) == ""
    damage(checkpoint / name)
    said = f"it has no {name}" if damage is missing else f"{name} cannot be read"
    assert fault_of(checkpoint, 4) == said


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (torn, "trainer_state.json", "trainer_state.json is not as it was written"),
        (missing, "optimizer.pt", "it has no optimizer.pt"),
        (torn, MANIFEST, "manifest.json cannot be read"),
    ],
)
def test_the_newest_whole_one_is_resumed(
    learn: Train, full: Path, stopped: Path, damage: Callable[[Path], None], name: str, said: str
) -> None:
    damage(stopped / "checkpoint-4" / name)
    lines = learn(stopped)
    assert f"{stopped / 'checkpoint-4'} is skipped: {said}" in lines
    assert f"resumes from {stopped / 'checkpoint-2'}" in lines
    assert same(stopped, full)
    assert fault_of(stopped / "checkpoint-4", 4) == ""


def test_an_earlier_version_s_is_resumed(learn: Train, full: Path, stopped: Path) -> None:
    (stopped / "checkpoint-4" / MANIFEST).unlink()
    lines = learn(stopped)
    assert f"resumes from {stopped / 'checkpoint-4'}" in lines and same(stopped, full)


def test_without_a_whole_one_it_begins_again(learn: Train, full: Path, stopped: Path) -> None:
    for step in (2, 4):
        (stopped / f"checkpoint-{step}" / "rng_state.pth").unlink()
    lines = learn(stopped)
    assert f"no checkpoint in {stopped} is whole: training begins again" in lines
    assert not any(line.startswith("resumes") for line in lines) and same(stopped, full)


def test_weights_without_a_state_are_not_resumed(learn: Train, tmp_path: Path) -> None:
    """``save_only_model`` keeps no optimizer: training on with another would be another run."""
    learn(tmp_path / "out", save_only_model=True, max_steps=2)
    (tmp_path / "out" / "training.json").unlink()
    lines = learn(tmp_path / "out", save_only_model=True, max_steps=2)
    assert f"{tmp_path / 'out' / 'checkpoint-2'} is skipped: it has no optimizer.pt" in lines


def test_another_number_of_processes_is_said(learn: Train, stopped: Path) -> None:
    checkpoint = stopped / "checkpoint-4"
    (checkpoint / MANIFEST).unlink()
    shutil.copy(checkpoint / "rng_state.pth", checkpoint / "rng_state_1.pth")
    assert any("is of 2 processes, and there are 1" in line for line in learn(stopped))


def test_old_ones_go_when_the_new_one_is_whole(learn: Train, tmp_path: Path) -> None:
    learn(tmp_path / "out", save_total_limit=1)
    [left] = (tmp_path / "out").glob("checkpoint-*")
    assert left.name == "checkpoint-6" and fault_of(left, 6) == ""


def test_a_time_limit_stops_where_the_same_command_goes_on(trained: Callable[..., Any]) -> None:
    keys = {"lora": {"r": 4}, "training": {"max_steps": 3}}
    plain = trained("arm", "plain", **keys)
    parts = []
    while not parts or not parts[-1].finished:
        parts.append(trained("arm", "parts", max_time=1e-9, **keys))
    assert [part.finished for part in parts] == [False, False, True] and plain.finished
    assert not (plain.folder / "checkpoint-1").exists()
    assert (parts[0].folder / "checkpoint-1").exists()
    assert same(plain.folder, parts[0].folder)
