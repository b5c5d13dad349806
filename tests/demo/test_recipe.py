"""The demo recipe trains every model by `descant train`, and leaves what is shipped, in kind."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import descant
from descant.demo import WEIGHTS, models
from descant.train import Data
from descant.train.encode import Counts, Encoder
from descant.train.examples import read_examples
from examples.demo_models import recipe
from examples.demo_models.corpus import pairs
from examples.demo_models.evaluation import pair_rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model after two steps."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(WEIGHTS / "base", folder / "base")
    shutil.copytree(WEIGHTS / "small", folder / "small")
    with pytest.MonkeyPatch.context() as patch:
        short = {name: dataclasses.replace(schedule, steps=2, batch=2)
                 for name, schedule in recipe.SCHEDULES.items()}  # fmt: skip
        patch.setattr(recipe, "SCHEDULES", short)
        tokenizer = recipe.make_tokenizer(folder)
        for name, make in recipe.MAKERS.items():
            make(name, folder, tokenizer)
    return folder


def content(folder: Path) -> dict[str, Any]:
    """What the files of a folder say, but for numbers that training sets."""
    found: dict[str, Any] = {}
    for file in folder.iterdir():
        if file.suffix == ".safetensors":
            found[file.name] = {k: (v.shape, v.dtype) for k, v in load_file(file).items()}
        else:
            found[file.name] = json.loads(file.read_text())
            for key in ("transformers_version", "peft_version"):
                found[file.name].pop(key, None)
    return found


@pytest.mark.parametrize("name", recipe.MAKERS)
def test_a_model_is_as_the_shipped_one_but_for_its_numbers(made: Path, name: str) -> None:
    assert content(made / name) == content(WEIGHTS / name)
    file = next((made / name).glob("*.safetensors")).name
    one, two = load_file(made / name / file), load_file(WEIGHTS / name / file)
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_a_formula_takes_them(made: Path) -> None:
    decoder = descant.compile(
        "base + arm_help - 0.5*arm_harm | rerank(reward_help, k=3)", models(made)
    )
    assert len(decoder.generate("How do I boil eggs?", max_new_tokens=3)[0].token_ids) == 3


def test_the_rows_are_those_that_are_measured(tmp_path: Path) -> None:
    """Training and the card's measurements read the same ids, by two routes."""
    tokenizer = recipe.make_tokenizer(WEIGHTS)
    drawn = pairs("help", 40, 3)
    file = tmp_path / "x.jsonl"
    file.write_text("".join(
        json.dumps({"prompt": recipe.prompt_text(pair.request), "chosen": pair.chosen.text,
                    "rejected": pair.rejected.text}) + "\n" for pair in drawn))  # fmt: skip
    spec = descant.models.ModelSpec(path=str(WEIGHTS / "base"))
    found, _ = read_examples(Data(path=str(file)), "arm")
    rows = Encoder(spec, tokenizer, frozenset([2]), 512).rows(found, Counts())
    want = pair_rows(tokenizer, drawn)
    assert [row["input_ids"] for row in rows] == [row["input_ids"] for row in want[::2]]
    assert [row["rejected_labels"] for row in rows] == [row["labels"] for row in want[1::2]]
