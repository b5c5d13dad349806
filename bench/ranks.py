"""Several processes, each with some of the models: what a rank holds, and what meeting costs.

    python -m bench.ranks            1, 2 and 4 processes on this machine; bench/results/ranks.json

Random weights of a real shape. Every process has one thread: more of them have more cores to work
on, as they have more GPUs elsewhere. Where they outnumber the cores they wait for each other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import descant
from descant.bench import shapes
from descant.bench.measure import processor

MODELS = ("base", "arm_1", "arm_2", "arm_3")
FORMULA = "base + 0.5*arm_1 + 0.3*arm_2 + 0.2*arm_3"
RESULTS = Path(__file__).parent / "results" / "ranks.json"
PROMPT, NEW = 32, 32


def worker(shape: str, batch: int, runs: int, folder: Path) -> None:
    """One process: decode, and write what this rank held, sent and waited for."""
    torch.set_num_threads(1)
    models = {name: str(folder / name) for name in MODELS}
    decoder = descant.compile(FORMULA, models, device="cpu", dtype="float32", parallel="terms")
    ranks, spent = decoder.session.bound.term_parallel, decoder.session.engine.spent
    assert ranks is not None
    prompts = torch.randint(3, 4000, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    decoder.generate(prompts.tolist(), max_new_tokens=2, eos_token_id=[], progress=False)
    found = []
    for _ in range(runs):
        ranks.seconds, ranks.sent = 0.0, 0
        decoder.generate(prompts.tolist(), max_new_tokens=NEW, eos_token_id=[], progress=False)
        found.append({
            "milliseconds": spent.seconds / spent.steps * 1e3,
            "meeting": ranks.seconds / spent.seconds,
            "sent": ranks.sent / spent.steps,
        })  # fmt: skip
    held = {
        key: size
        for lane in decoder.session.bound.lanes
        for key, size in lane.memory_bytes().items()
    }
    said = {"rank": ranks.rank, "weights": sum(held.values()), "runs": found}
    (folder / f"{ranks.size}.{ranks.rank}.json").write_text(json.dumps(said))


def measure(shape: str, batch: int, runs: int, counts: list[int]) -> dict[str, Any]:
    """Every number of processes in turn."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for seed, name in enumerate(MODELS):
            shapes.language_model(shape, seed, torch.float32, "cpu").save_pretrained(folder / name)
        for count in counts:
            subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", "--standalone",
                 "--nproc-per-node", str(count), "-m", "bench.ranks", "--shape", shape,
                 "--batch-size", str(batch), "--runs", str(runs), "--worker", scratch],
                check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            ranks = [
                json.loads(file.read_text()) for file in sorted(folder.glob(f"{count}.*.json"))
            ]
            found[str(count)] = ranks
    return found


def main() -> None:
    """Measure, print the table, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="small")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--worker", type=Path)
    given = parser.parse_args()
    if given.worker:
        worker(given.shape, given.batch_size, given.runs, given.worker)
        return
    results = measure(given.shape, given.batch_size, given.runs, given.processes)
    said = {
        "formula": FORMULA, "shape": given.shape, "batch_size": given.batch_size,
        "prompt": PROMPT, "new": NEW, "device": "cpu, gloo", "processor": processor(),
        "cores": os.cpu_count(), "dtype": "float32", "torch": torch.__version__,
        "results": results,
    }  # fmt: skip
    given.output.write_text(json.dumps(said, indent=1) + "\n")
    print("processes  rank  weights     ms a step  meeting  sent a step")
    for count, ranks in results.items():
        for one in ranks:
            runs = sorted(one["runs"], key=lambda run: run["milliseconds"])
            middle = runs[len(runs) // 2]
            print(f"{count:>9}  {one['rank']:>4}  {one['weights'] / 1e6:>7.1f} MB  "
                  f"{middle['milliseconds']:>9.1f}  {middle['meeting']:>6.1%}  "
                  f"{middle['sent'] / 1e3:>8.1f} kB")  # fmt: skip


if __name__ == "__main__":
    main()
