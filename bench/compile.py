"""Whether ``torch.compile`` pays on a CPU: our step with a model as it is, and compiled.

    python -m bench.compile        the table, and bench/results/compile.json with every raw number

Needs a C++ compiler. All ways are decoders over the same weights that step in turn. One thread, and
CPU time of this process, so that neighbours on the machine count less. A step is a whole step of
ours: the forward, and all that is around it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import descant
from bench.cpu import ON_CPU, RESULTS, keep
from bench.joining import arrivals, run
from descant.bench import shapes

CASES = [(shape, batch) for shape in ("small", "qwen2.5-0.5b") for batch in (1, 8)]
PROMPT, NEW = 32, 48  # the part of the caches that is seen grows on the way


WAYS = ("as it is", "compiled")


def compiled(model: Any) -> Any:
    """With its forward compiled in place, and that without the head, with which prompts are read.

    Layer by layer would be one graph for all, but a layer knows its number, so that torch compiles
    each for itself, and after eight of them gives up (torch 2.13).
    """
    model.model.compile(dynamic=True)
    model.compile(dynamic=True)
    return model


def steps(decoder: Any, prompts: torch.Tensor) -> Iterator[tuple[float, list[int]]]:
    """For each token: milliseconds of CPU time of its step, and the tokens of all rows."""
    rows = run(decoder, arrivals(prompts, len(prompts), alike=True), NEW)
    while True:
        start = time.process_time()
        answers = next(rows, None)
        if answers is None:
            return
        yield (time.process_time() - start) * 1e3, [answer.tokens[-1] for answer in answers]


def graphs() -> int:
    """That were compiled so far."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def seconds(decoder: Any, prompts: torch.Tensor, alike: bool) -> dict[str, float]:
    """A whole run, and the graphs that were compiled in it."""
    before, start = graphs(), time.perf_counter()
    for _ in run(decoder, arrivals(prompts, len(prompts), alike), NEW):
        pass
    return {"seconds": time.perf_counter() - start, "graphs": graphs() - before}


def measure(shape: str, batch: int) -> dict[str, Any]:
    """Every way of one case."""
    torch._dynamo.reset()
    model = shapes.language_model(shape, 0, **ON_CPU)
    models = (model, compiled(shapes.twin(model)))
    decoders = {
        way: descant.compile("base", models={"base": base})
        for way, base in zip(WAYS, models, strict=True)
    }
    size = shapes.SHAPES[shape][1]["vocab_size"]
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, size, (batch + 2, PROMPT), generator=generator)
    results: dict[str, Any] = {
        way: {
            "first run": seconds(decoder, prompts[:batch], True),
            "again": seconds(decoder, prompts[:batch], True),
            "other lengths and rows": seconds(decoder, prompts, False),
            "and again": seconds(decoder, prompts, False),
            "steps": [],
            "same tokens": True,
        }
        for way, decoder in decoders.items()
    }
    running = [steps(decoder, prompts[:batch]) for decoder in decoders.values()]
    for i, made in enumerate(zip(*running, strict=True)):
        for way, (milliseconds, tokens) in zip(WAYS, made, strict=True):
            results[way]["same tokens"] &= tokens == made[0][1]
            if i:  # the first step reads the prompts
                results[way]["steps"].append(milliseconds)
    return results


def main() -> None:
    """Measure, print the table, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS / "compile.json")
    output = parser.parse_args().output
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for shape, batch in CASES:
        ways = results[f"{shape}, batch {batch}"] = measure(shape, batch)
        for way, result in ways.items():
            pairs = zip(result["steps"], ways["as it is"]["steps"], strict=True)
            ratio = statistics.median(mine / plain for mine, plain in pairs)
            runs = ", ".join(
                f"{name} {result[name]['seconds']:.0f} s ({result[name]['graphs']} graphs)"
                for name in ("first run", "again", "other lengths and rows", "and again")
            )
            print(
                f"{shape:13} batch {batch}  {way:8} {statistics.median(result['steps']):7.1f} ms a "
                f"step {ratio:5.2f}  {runs}; same tokens: {result['same tokens']}",
                flush=True,
            )
        shapes_used = sorted({name for name, _ in CASES})
        keep(output, results, shape=shapes_used, prompt_tokens=PROMPT, new_tokens=NEW)


if __name__ == "__main__":
    main()
