"""What a term that says more costs: weighted adapters, a steering vector, a number of the state.

    OMP_NUM_THREADS=2 python -m bench.additions               bench/results/additions.json
    OMP_NUM_THREADS=2 python -m bench.additions steering      this alone; the others stay

A step of one formula and a step of the plainer one follow each other, on contexts of the same
length; the result is the median of the ratios of all pairs. The plainer one has weights of its own,
on which nothing is hooked.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

import descant
from bench.draft_models import SMALL, TINY, language_model
from descant.bench.measure import about
from descant.runtime.engine.launch import ScheduledBatch, launch

RESULTS = Path(__file__).parent / "results" / "additions.json"
PROMPT, STEPS, RUNS, WARM = 32, 40, 5, 4
ADAPTERS, RANK, TARGETS = 8, 8, ["q_proj", "v_proj"]


@dataclass(frozen=True)
class Case:
    """A formula beside a plainer one.

    Attributes:
        rows: of the batch.
        params: of the formula, a value per row.
        asked: times the plainer one's time, at most.
    """

    formula: str
    plain: str
    rows: int
    asked: float
    params: Mapping[str, list[float]]


MIXED = " + ".join(f"w{i}*arm{i}" for i in range(ADAPTERS))
CASES = {
    "eleven weighted rows": Case(
        f"base[{MIXED}]", "base", 11, 1.2,
        {f"w{i}": [(row + i) % 11 / 10 for row in range(11)] for i in range(ADAPTERS)},
    ),
    "steering": Case("base[2*honest]", "base", 1, 1.03, {}),
    "steering, eight rows": Case("base[2*honest]", "base", 8, 1.03, {}),
    "entropy": Case("base + entropy(base)*other", "base + 0.5*other", 1, 1.05, {}),
    "entropy, eight rows": Case("base + entropy(base)*other", "base + 0.5*other", 8, 1.05, {}),
}  # fmt: skip


def adapters(model: Any, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """LoRA adapters with random factors, declared on the base."""
    for number in range(ADAPTERS):
        torch.manual_seed(number)
        config = LoraConfig(
            r=RANK, lora_alpha=RANK, target_modules=TARGETS, init_lora_weights=False
        )
        adapted = get_peft_model(model, config)
        adapted.save_pretrained(folder / f"arm{number}")
        adapted.unload()
        yield f"arm{number}", {"adapter": str(folder / f"arm{number}"), "on": "base"}


def declared(sizes: dict[str, int], folder: Path) -> dict[str, Any]:
    """The models of all formulas."""
    base, other = (language_model(sizes, seed) for seed in range(2))
    width, depth = sizes["hidden_size"], sizes["num_hidden_layers"]
    directions = {layer: 0.1 * torch.randn(width) for layer in range(depth)}
    arms = dict(adapters(base, folder))
    vector = {"vector": directions, "on": "base"}
    return {"base": base, "other": other, "honest": vector, **arms}


def stepping(formula: str, models: dict[str, Any], case: Case) -> Callable[[], object]:
    """One step of a formula, after the prefill."""
    params = {name: values for name, values in case.params.items() if name in formula}
    decoder = descant.compile(formula, models, params={name: v[0] for name, v in params.items()})
    size, generator = models["base"].config.vocab_size, torch.Generator().manual_seed(0)
    prompts = torch.randint(3, size, (case.rows, PROMPT), generator=generator).tolist()
    requests = decoder.session.builder.requests(
        prompts, params=params, max_new_tokens=STEPS + 1, eos_token_id=[]
    )
    engine = decoder.session.engine
    batch = engine.begin(requests, len(requests))
    batch.admit(requests)
    batch.read(math.inf)
    return lambda: launch([ScheduledBatch(engine, batch)])[0].collected(engine.errors)


def measure(case: Case, models: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of every pair of steps, and the median of their ratios."""
    pairs: list[tuple[float, float]] = []
    bare = copy.deepcopy({name: models[name] for name in ("base", "other")})
    for _ in range(RUNS):
        steps = stepping(case.formula, models, case), stepping(case.plain, bare, case)
        for number in range(STEPS):
            times = []
            for step in steps:
                start = time.perf_counter()
                step()
                times.append((time.perf_counter() - start) * 1e3)
            if number >= WARM:
                pairs.append((times[0], times[1]))
        gc.collect()
    ratio = statistics.median(ours / plain for ours, plain in pairs)
    return {
        "formula": case.formula, "plain": case.plain, "rows": case.rows, "asked": case.asked,
        "ratio": round(ratio, 4), "milliseconds": [[round(t, 3) for t in pair] for pair in pairs],
    }  # fmt: skip


def main() -> None:
    """Measure the named cases, or all, and keep them with the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(CASES))
    parser.add_argument("--quick", action="store_true", help="tiny models")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    sizes = TINY if chosen.quick else SMALL
    results: dict[str, Any] = {"cases": {}}
    if chosen.output.is_file():
        results = json.loads(chosen.output.read_text(encoding="utf-8"))
    results |= {"about": about(), "sizes": sizes, "rank": RANK, "targets": TARGETS}
    with tempfile.TemporaryDirectory() as folder:
        models = declared(sizes, Path(folder))
        for name in chosen.names or CASES:
            found = results["cases"][name] = measure(CASES[name], models)
            print(f"{name}: {found['ratio']:.3f} times (asked {found['asked']})", flush=True)
    chosen.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
