"""Two processes train as one does with the doubled batch, with every method."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training_process
from test_fit import LORA, weights

ROOT = Path(__file__).parents[2]
COMMON = {"max_steps": 4, "logging_steps": 1, "optim": "sgd", "learning_rate": 0.02,
          "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}  # fmt: skip
KINDS: dict[str, Any] = {"arm": LORA, "dpo": None, "reward": None, "sft": LORA}
SAME = ("loss", "eval_loss", "rewards/chosen", "rewards/margins", "eval_rewards/accuracies")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_processes_are_one_with_the_doubled_batch(
    trained: Any, zoo: Any, data: str, tmp_path: Path
) -> None:
    files = []
    for method, lora in KINDS.items():
        content = {"method": method, "model": zoo.path("base"), "data": data, "lora": lora,
                   "eval_share": 0.125, "output": str(tmp_path / f"{method}_two"), "training":
                   {**COMMON, "per_device_train_batch_size": 2, "ddp_backend": "gloo"}}  # fmt: skip
        files.append(tmp_path / f"{method}_two.json")
        files[-1].write_text(json.dumps(content), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         training_process.__file__, *map(str, files)],
        capture_output=True, text=True, timeout=180, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("train: 21 of 21 rows used") == len(KINDS)  # the first process's alone
    for method, lora in KINDS.items():
        one = trained(method, f"{method}_one", lora=lora, eval_share=0.125, training=COMMON).folder
        compare(one, tmp_path / f"{method}_two")


def compare(one: Path, two: Path) -> None:
    alone, together = (json.loads((folder / "training.json").read_text()) for folder in (one, two))
    assert (alone["processes"], together["processes"]) == (1, 2)
    for a, b in zip(alone["log"], together["log"], strict=True):
        for key in set(a) & set(SAME):
            if key == "eval_loss" and alone["recipe"]["method"] == "sft":
                continue  # the Trainer's own is a mean over batches
            assert b[key] == pytest.approx(a[key], rel=1e-3, abs=1e-4), (one.name, a["step"], key)
    first, second = weights(one), weights(two)
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-5, rtol=1e-3)
