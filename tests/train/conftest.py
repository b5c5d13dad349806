"""A model of a few thousand weights, preferences that it can learn, and a way to train on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from descant.train import read_train_file
from descant.train.formulas.effect import FORMULAS

QUICK = {
    "use_cpu": True,
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "disable_tqdm": True,
}


def preferences(count: int) -> list[dict[str, str]]:
    """The one who speaks of the river is right, at any length."""
    return [
        {
            "prompt": f"{number}: say it",
            "chosen": " the river" * (1 + number % 3),
            "rejected": " a dog jumps" * (1 + number % 4),
        }
        for number in range(count)
    ]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of preferences."""
    file = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in preferences(24)), "utf-8")
    return str(file)


@pytest.fixture
def trained(zoo: Any, data: str, tmp_path: Path) -> Callable[..., Any]:
    """``trained(method, output, **keys)``: what ``descant train`` does."""
    from descant.train.loop import train

    def make(method: str, output: str = "out", on: str = "base", **keys: Any) -> Any:
        keys = {"model": zoo.path(on), "data": data, **keys}
        if method in FORMULAS:
            keys = {"check": None, **keys}
        training = QUICK | keys.pop("training", {})
        content = {**keys, "training": training, "output": str(tmp_path / output)}
        file = tmp_path / f"{output}.yaml"
        file.write_text(json.dumps(content), "utf-8")
        return train(read_train_file(method, file), lambda line: None)

    return make
