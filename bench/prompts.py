"""Reading prompts, and rows of unlike lengths: ours beside transformers, on this CPU.

    OMP_NUM_THREADS=1 python -m bench.prompts         bench/results/prompts.json

One prompt and one new token, by ours and by ``model.generate``, in turn; and the steps of eight
rows: all short, one long, all long. Random weights, float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import descant
from descant.bench.measure import about

RESULTS = Path(__file__).parent / "results" / "prompts.json"
SHAPE = {
    "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 16384,
    "tie_word_embeddings": True,
}  # fmt: skip
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 12000)
SHORT, LONG, ROWS = 64, 4096, 8
READING, STEPPING = 1.1, 1.6  # asked for: over generate, and over rows that are all short


def timed(work: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def reading(model: Any, decoder: descant.Decoder, length: int, runs: int) -> dict[str, Any]:
    """Seconds of one prompt and one token, by both, in turn; their tokens are compared."""
    ids = torch.randint(3, SHAPE["vocab_size"], (1, length))
    options = {"max_new_tokens": 1, "eos_token_id": []}

    def ours() -> list[int]:
        [completion] = decoder.generate(ids.tolist(), temperature=0, progress=False, **options)
        return list(completion.token_ids)

    def plain() -> list[int]:
        mask = torch.ones_like(ids)
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=1, do_sample=False, eos_token_id=None
        )
        tokens: list[int] = out[0, length:].tolist()
        return tokens

    same = ours() == plain()
    pairs = [(timed(ours), timed(plain)) for _ in range(runs)]
    own, others = zip(*pairs, strict=True)
    ratio = statistics.median(one / other for one, other in pairs)  # a busy moment slows both
    return {"tokens": length, "same": same, "ours": own, "generate": others, "ratio": ratio}


def step_seconds(decoder: descant.Decoder, lengths: Sequence[int], steps: int) -> list[float]:
    """Seconds of each step of rows whose prompts have these lengths, without the first ones."""
    prompts = [torch.randint(3, SHAPE["vocab_size"], (n,)).tolist() for n in lengths]
    requests = decoder.session.builder.requests(
        prompts, max_new_tokens=steps, eos_token_id=[], temperature=0
    )
    seconds, start = [], time.perf_counter()
    for _ in decoder.session.decode(requests, len(lengths)):
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return seconds[4:]


def main() -> None:
    """Measure, print, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine = about()
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    decoder = descant.compile("base", models={"base": model})
    read = []
    for length in LENGTHS:
        if length <= options.longest:
            read.append(reading(model, decoder, length, options.runs if length < LONG else 3))
            print(f"{length} tokens: {read[-1]['ratio']:.2f} times generate's time", flush=True)
    long = min(LONG, options.longest)
    batches = {
        "short": [SHORT] * ROWS, "one long": [long] + [SHORT] * (ROWS - 1), "long": [long] * ROWS,
    }  # fmt: skip
    steps = {
        name: [*step_seconds(decoder, lengths, options.steps)] for name, lengths in batches.items()
    }
    medians = {name: statistics.median(seconds) for name, seconds in steps.items()}
    for name in ("one long", "long"):
        print(f"a step of rows, {name}: {medians[name] / medians['short']:.2f} times all short")
    content = {
        "device": "cpu", "dtype": "float32", "threads": torch.get_num_threads(),
        "shape": SHAPE, **machine,
        "asked_for": {"reading": READING, "stepping": STEPPING},
        "reading": read, "steps": steps, "medians": medians,
    }  # fmt: skip
    options.output.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
