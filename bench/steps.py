"""A step of three models beside the bare forwards that it must make, in turn, many times over.

    python -m bench.steps          bench/results/steps.json

Whole runs scatter with the machine, and so do their ratios. Here one step of ours and one step of
three plain transformers loops follow each other, on contexts of the same length, and the result is
the median over all pairs. Prefill is left out on both sides.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

import descant
from descant.bench import shapes
from descant.bench.measure import about
from descant.runtime.engine.launch import ScheduledBatch, launch

RESULTS = Path(__file__).parent / "results" / "steps.json"
FORMULA, PROMPT, STEPS, RUNS, WARM = "base + 0.5*arm_1 + 0.5*arm_2", 32, 60, 5, 4
TARGET = 1.05


def ours(decoder: Any, prompts: Tensor) -> Callable[[], object]:
    """One step of a decoder, after the prefill."""
    requests = decoder.session.builder.requests(
        prompts.tolist(), max_new_tokens=STEPS + 1, eos_token_id=[]
    )
    engine = decoder.session.engine
    batch = engine.begin(requests, len(requests))
    batch.admit(requests)
    batch.read(math.inf)
    return lambda: launch([ScheduledBatch(engine, batch)])[0].collected(engine.errors)


def bare(models: list[Any], prompts: Tensor) -> Callable[[], object]:
    """One step of each model alone: a forward and the best token."""
    caches = [DynamicCache(config=model.config) for model in models]
    tokens = [prompts[:, -1:] for _ in models]
    with torch.no_grad():
        for model, cache in zip(models, caches, strict=True):
            model(input_ids=prompts[:, :-1], past_key_values=cache, use_cache=True)

    @torch.no_grad()
    def step() -> None:
        for i, (model, cache) in enumerate(zip(models, caches, strict=True)):
            out = model(input_ids=tokens[i], past_key_values=cache, use_cache=True)
            tokens[i] = out.logits[:, -1].argmax(-1, keepdim=True)

    return step


def paired(one: Callable[[], object], other: Callable[[], object], steps: int) -> list[list[float]]:
    """Milliseconds of both, in turn, so many times; the first ``WARM`` do not count."""
    pairs = []
    for _ in range(steps):
        times = []
        for step in (one, other):
            start = time.perf_counter()
            step()
            times.append((time.perf_counter() - start) * 1e3)
        pairs.append(times)
    return pairs[WARM:]


def measure(shape: str, batch: int) -> dict[str, Any]:
    """Milliseconds of every pair of steps, and the median of their ratios."""
    models = [shapes.language_model(shape, i, dtype=torch.float32, device="cpu") for i in range(3)]
    decoder = descant.compile(FORMULA, dict(zip(("base", "arm_1", "arm_2"), models, strict=True)))
    vocabulary = shapes.SHAPES[shape][1]["vocab_size"]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, vocabulary, (batch, PROMPT), generator=generator)
    pairs = list[list[float]]()
    for _ in range(RUNS):
        pairs += paired(ours(decoder, prompts), bare(models, prompts), STEPS)
    ratio = statistics.median(mine / theirs for mine, theirs in pairs)
    mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {"batch": batch, "ratio": ratio, "target": TARGET, "ours": mine, "bare": theirs,
            "pairs": [[round(step, 4) for step in pair] for pair in pairs]}  # fmt: skip


def main() -> None:
    """Measure, print a line per batch size, and keep every number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="small", choices=sorted(shapes.SHAPES))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    settings = {"formula": FORMULA, "shape": options.shape, "dtype": "float32", "prompt": PROMPT}
    machine = about()  # before the load is our own
    results = [measure(options.shape, batch) for batch in (1, 8)]
    for result in results:
        print(f"batch {result['batch']}: {result['ours']:.1f} ms, bare {result['bare']:.1f} ms, "
              f"median ratio {result['ratio']:.3f} (at most {TARGET})")  # fmt: skip
    kept = {"about": {**settings, **machine}, "results": results}
    options.output.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
