"""Ratios on a CPU in one run, on random weights of a real shape.

    python -m bench.cpu            the table, and bench/results/cpu.json with every raw number

Each ratio divides a decoder's time by the time of the plain loops that do the same forwards,
measured in turn so that a machine that drifts does so for both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import descant
from descant.bench import plain, shapes
from descant.bench.measure import about, seconds

PROMPT, NEW, K = 32, 64, 10
SHAPE = "small"
VECTORS, VECTORS_PROMPTS = [i / 10 for i in range(11)], 4
ON_CPU = {"dtype": torch.float32, "device": "cpu"}
RESULTS = Path(__file__).parent / "results"


def paired(ours: Callable[[], Any], theirs: Callable[[], Any], runs: int) -> dict[str, Any]:
    """Both in turn, after one warm-up each: seconds of every run, and the median ratio."""
    theirs(), ours()
    pairs = []
    for _ in range(runs):
        other = seconds(theirs, "cpu")
        pairs.append((seconds(ours, "cpu"), other))
    ratios = [mine / other for mine, other in pairs]
    return {
        "ours": [mine for mine, _ in pairs],
        "theirs": [other for _, other in pairs],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def measure(runs: int) -> dict[str, Any]:
    """Every comparison of the table."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, 32000, (8, PROMPT), generator=generator)
    models = [shapes.language_model(SHAPE, seed, **ON_CPU) for seed in range(3)]
    reward = shapes.reward_model(SHAPE, 7, **ON_CPU)
    results: dict[str, Any] = {}
    three = descant.compile(
        "base + 0.5*arm_1 + 0.5*arm_2",
        models=dict(zip(("base", "arm_1", "arm_2"), models, strict=True)),
    )
    for batch in (1, 8):
        rows = prompts[:batch]
        results[f"three models, batch {batch}"] = {
            "target": 1.15,
            "against": "the sum of three bare decode loops",
            **paired(
                lambda rows=rows: generate(three, rows),
                lambda rows=rows: [plain.decode(model, rows, NEW) for model in models],
                runs,
            ),
        }
    prompted = {
        f"v{i}": {"model": models[0], "prefix": list(range(10 + i, 14 + i))} for i in range(3)
    }
    shared = descant.compile("v0 + 0.5*v1 + 0.5*v2", models=prompted)
    single = prompts[:1]
    results["one model, three prompts, batch 1"] = {
        "target": 1.6,
        "against": "one bare decode loop",
        **paired(
            lambda: generate(shared, single), lambda: plain.decode(models[0], single, NEW), runs
        ),
    }
    formula = f"base | rerank(reward, k={K}, w=1.5)"
    args = descant.compile(formula, models={"base": models[0], "reward": reward})
    floor = paired(
        lambda: generate(args, single),
        lambda: (
            plain.decode(models[0], single, NEW),
            plain.candidate_forwards(reward, single, NEW, K),
        ),
        runs,
    )
    results[f"rerank k={K}, batch 1"] = {
        "target": 1.3,
        "against": f"one base step and one reward forward of {K} tokens",
        **floor,
    }
    scratch = paired(
        lambda: plain.generate(models[0], single, NEW, rerank=(reward, K, 1.5)),
        lambda: generate(args, single),
        max(1, runs // 3),
    )
    results[f"rerank k={K} from scratch, over ours"] = {
        "target": -8.0,
        "against": "ours; the target is a least",
        **scratch,
    }
    results |= sweeps(models, prompts[:VECTORS_PROMPTS], max(1, runs // 3))
    return results


def sweeps(models: list[Any], prompts: torch.Tensor, runs: int) -> dict[str, Any]:
    """Eleven preference vectors as rows of one batch, over eleven runs of plain transformers."""
    base, *others = models
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = [shapes.lora(SHAPE, i, Path(scratch) / str(i)) for i in range(2)]
        adapters = [{"adapter": str(folder), "on": "base"} for folder in folders]
        for kind, arms in (("LoRA", adapters), ("separate", others)):
            decoder = descant.compile(
                "base + (1-a)*arm_0 + a*arm_1",
                models={"base": base, "arm_0": arms[0], "arm_1": arms[1]},
                params={"a": 0.5},
            )
            # An adapter is a pass of its own over the base there; what it adds is left out.
            passes = [base, base] if kind == "LoRA" else others

            def rows(decoder: descant.Decoder = decoder) -> None:
                decoder.generate(
                    [prompt for prompt in prompts.tolist() for _ in VECTORS],
                    params={"a": VECTORS * len(prompts)}, max_new_tokens=NEW, eos_token_id=[],
                    batch_size=len(prompts) * len(VECTORS), progress=False,
                )  # fmt: skip

            def one_by_one(passes: list[Any] = passes) -> None:
                for a in VECTORS:
                    weighted = list(zip(passes, (1 - a, a), strict=True))
                    plain.generate(base, prompts, NEW, weighted)

            results[f"11 vectors x {len(prompts)} prompts, {kind} arms"] = {
                "target": -5.0,
                "against": "eleven runs of plain transformers, over ours; a least",
                **paired(one_by_one, rows, runs),
            }
    return results


def generate(decoder: descant.Decoder, prompts: torch.Tensor) -> list[Any]:
    """Ours, over the same prompts."""
    return decoder.generate(prompts.tolist(), max_new_tokens=NEW, progress=False)


def keep(output: Path, results: dict[str, Any], **sizes: Any) -> None:
    """Write results down, with what they were measured on."""
    content = {
        "device": "cpu", "dtype": "float32", "shape": shapes.SHAPES[SHAPE], **about(), **sizes,
        "results": results,
    }  # fmt: skip
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Measure, print the table, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu.json")
    arguments = parser.parse_args()
    results = measure(arguments.runs)
    keep(arguments.output, results, prompt_tokens=PROMPT, new_tokens=NEW)
    for name, result in results.items():
        target = result["target"]
        wanted = f"at most {target}" if target > 0 else f"at least {-target}"
        print(f"{name:38} {result['ratio']:6.2f}  ({wanted}; {result['against']})")


if __name__ == "__main__":
    main()
