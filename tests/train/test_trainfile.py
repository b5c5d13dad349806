"""Train files: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from descant.train import TrainFileError, read_train_file

GOOD = """
method: arm
model: {path: some/base, dtype: bfloat16}
data: pairs.jsonl
lora: {r: 4}
beta: 0.05
training: {learning_rate: 5e-4, num_train_epochs: 1}
output: runs/arm
"""


def write(folder: Path, text: str = GOOD) -> Path:
    file = folder / "train.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_is_read(tmp_path: Path) -> None:
    said = read_train_file("arm", write(tmp_path))
    assert (said.model.path, said.data.path, said.data.split) == (
        "some/base",
        "pairs.jsonl",
        "train",
    )
    assert said.lora is not None and (said.lora.r, said.lora.lora_alpha) == (4, 16)
    assert said.training == {"learning_rate": 5e-4, "num_train_epochs": 1}


def test_what_lies_beside_the_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").touch()
    said = read_train_file("arm", write(tmp_path))
    assert said.data.path == str(tmp_path / "pairs.jsonl")
    assert (said.model.path, said.output) == ("some/base", "runs/arm")


def test_the_command_line_alone() -> None:
    said = read_train_file("sft", None, ["max_steps=3", "lora.r=2"], model="a", data="b.jsonl",
                           output="c")  # fmt: skip
    assert (said.model.path, said.data.path, said.output) == ("a", "b.jsonl", "c")
    assert said.training == {"max_steps": 3} and said.lora is not None and said.lora.r == 2


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("beta=0.5", lambda said: said.beta, 0.5),
        ("learning_rate=1e-3", lambda said: said.training["learning_rate"], 1e-3),
        ("training.seed=3", lambda said: said.training["seed"], 3),
        ("lora.target_modules=[a, b]", lambda said: said.lora.target_modules, ["a", "b"]),
        ("lora=null", lambda said: said.lora, None),
        ("data.limit=5", lambda said: said.data.limit, 5),
        ("data=other.jsonl", lambda said: said.data.path, "other.jsonl"),
        ("model.template='{prompt}'", lambda said: said.model.template, "{prompt}"),
    ],
)
def test_overrides(tmp_path: Path, override: str, get: Any, value: Any) -> None:
    assert get(read_train_file("arm", write(tmp_path), [override])) == value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("beta:", "betta:"), "there is no option betta; did you mean beta?"),
        (("{r: 4}", "{rank: 4}"), "there is no option lora.rank; known here: lora_alpha, "),
        (("learning_rate:", "lr:"), "no option training.lr; did you mean learning_rate?"),
        (("num_train_epochs", "epochs"), "did you mean num_train_epochs?"),
        (("5e-4", "fast"), "training.learning_rate must be a number, and is 'fast'"),
        (("num_train_epochs: 1", "output_dir: x"), "training.output_dir cannot be set"),
        (("beta: 0.05", "beta: -1"), "beta must be above 0"),
        (("beta: 0.05", "prefixes: 0.5"), "prefixes is an option of reward alone"),
        (("beta: 0.05", "eval_share: 1.5"), "eval_share"),
        (("beta: 0.05", "eval_share: 0.5\neval_data: x"), "not both"),
        (("data: pairs.jsonl", "data: {path: x, dimension: help}"), "'better' or 'safer'"),
        (("dtype: bfloat16", "device: cuda"), "model.device is not of a model that is trained"),
        (("model: {path: some/base, dtype: bfloat16}", "model: {adapter: a, on: b}"),
         "model.adapter is not of a model that is trained"),
        (("output: runs/arm", ""), "has no output; give --output"),
        (("method: arm", "method: dpo"), "is for dpo: write descant train dpo"),
        ((GOOD, "- a"), "is not a train file"),
        ((GOOD, "model: ["), "is not YAML"),
        ((GOOD, "model: !!python/object:os.system x"), "is not YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    with pytest.raises(TrainFileError) as caught:
        read_train_file("arm", write(tmp_path, GOOD.replace(*change)))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("lr=1", "there is no option or training argument lr; did you mean learning_rate?"),
        ("batch_size=1", "did you mean per_device_train_batch_size?"),
        ("beta", "write --set name=value"),
        ("beta=[", "is not a value"),
        ("beta.x=1", "beta holds no keys"),
        ("data.pth=1", "there is no option data.pth; did you mean path?"),
        ("eval_data.malformed=skip", "eval_data: there is no option malformed; it is bad_rows"),
    ],
)
def test_overrides_that_mean_nothing(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(TrainFileError) as caught:
        read_train_file("arm", write(tmp_path), [override])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("am", None, "there is no method am; did you mean arm?"),
        ("arm", "nowhere.yaml", "there is no train file nowhere.yaml"),
        ("arm", None, "the command has no model; give --model"),
    ],
)
def test_commands_that_mean_nothing(method: str, path: str | None, says: str) -> None:
    with pytest.raises(TrainFileError) as caught:
        read_train_file(method, path)
    assert says in str(caught.value)
