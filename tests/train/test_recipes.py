"""The published recipes say what the paper says, and run two steps on tiny data of their format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from descant.train import read_train_file
from descant.train.loop import train

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "train").glob("*.yaml"))
GENARM = {"learning_rate": 5e-4, "num_train_epochs": 1, "lr_scheduler_type": "cosine",
          "weight_decay": 0.05}  # fmt: skip
BETAS = {"genarm_hh": 0.05, "genarm_helpful": 0.5, "genarm_harmless": 0.01, "dpo_hh": 0.1}


def rows_of(dataset: str) -> list[dict[str, Any]]:
    """A few rows in a dataset's own columns."""
    found: list[dict[str, Any]] = []
    for number in range(8):
        prompt = f"\n\nHuman: {number}?\n\nAssistant:"
        good, bad = " the river", " a dog" * (1 + number % 3)
        if dataset == "Anthropic/hh-rlhf":
            found.append({"chosen": prompt + good, "rejected": prompt + bad})
        elif dataset == "Dahoas/full-hh-rlhf":
            found.append({"prompt": prompt, "chosen": good, "rejected": bad, "response": good})
        else:
            assert dataset == "PKU-Alignment/PKU-SafeRLHF-10K"
            found.append({"prompt": f"{number}?", "response_0": good, "response_1": bad,
                          "is_response_0_safe": True, "is_response_1_safe": False,
                          "better_response_id": 0, "safer_response_id": 1})  # fmt: skip
    return found


def test_there_is_a_recipe_for_each() -> None:
    assert set(BETAS) <= {file.stem for file in RECIPES}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe(file: Path, zoo: Any, tmp_path: Path) -> None:
    method = file.stem.partition("_")[0].replace("genarm", "arm")
    said = read_train_file(method, file)
    if file.stem in BETAS:
        assert said.beta == BETAS[file.stem]
        assert said.training.items() >= GENARM.items()
        batch = said.training["per_device_train_batch_size"]
        assert 2 * batch * said.training["gradient_accumulation_steps"] == 32  # on two devices
        dimension = {"genarm_helpful": "better", "genarm_harmless": "safer"}.get(file.stem)
        assert said.data.dimension == dimension
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows_of(said.data.path)), "utf-8")
    sets = [f"model.path={zoo.path('base')}", f"data.path={data}", "max_length=128", "max_steps=2",
            "use_cpu=true", "gradient_accumulation_steps=1", "disable_tqdm=true"]  # fmt: skip
    sets += [f"eval_data.path={data}"] * (said.eval_data is not None)
    sets += ["eval_steps=1"] * (said.training.get("eval_strategy") == "steps")
    tiny = read_train_file(method, file, sets, output=str(tmp_path / "out"))
    done = train(tiny, lambda line: None)
    assert done.rows["train"].bad == 0 and done.metrics["step"] == 2
    assert {"eval_loss", "eval_rewards/accuracies"} <= set(done.metrics)
