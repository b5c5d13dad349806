"""A real chat model beside its bare loop and model.generate, at several batch sizes.

    python -m bench.real SmolLM2-135M-Instruct.Q4_1.gguf        bench/results/real.json

The three ways decode the same prompts in turn, and give the same greedy tokens. Times are those of
the tokens after the first; a ratio is the median over runs measured next to each other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import descant
from descant.bench import plain
from descant.bench.measure import Clock, Result, Settings, about, floor, ours, timed
from descant.models.checkpoint.spec import ModelSpec
from descant.models.loading.unpack import weights_source

RESULTS = Path(__file__).parent / "results" / "real.json"
BATCHES, PROMPT, NEW = (1, 4, 16), 64, 48


def measured(path: str, batch: int, runs: int) -> dict[str, Any]:
    """Milliseconds per token of each way, and ours over the others."""
    source = weights_source("model", ModelSpec(path=path), torch.float32)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    decoder = descant.compile("model", {"model": {"path": path, "dtype": "float32"}})
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(100, model.config.vocab_size, (batch, PROMPT), generator=generator)

    def generate(new: int, clock: Clock) -> Any:
        tokens = plain.generate(model, prompts, new, started=clock.start)
        clock.stop()
        return tokens

    def bare(new: int, clock: Clock) -> Any:
        tokens = plain.decode(model, prompts, new, clock.start)
        clock.stop()
        return tokens

    ways = {"ours": ours(decoder, prompts), "plain": generate, "bare": bare}
    tokens = [torch.as_tensor(way(8, Clock("cpu"))).tolist() for way in ways.values()]
    assert tokens[0] == tokens[1] == tokens[2], "the ways differ"
    settings = Settings(batch_size=batch, prompt_length=PROMPT, new=NEW, runs=runs, device="cpu")
    result = Result("real", "model", floor(decoder, settings), timed(ways, settings))
    ratios = {to: result.ratio("ours", to) for to in ("bare", "plain", "floor")}
    return {"batch": batch, "ms": result.runs, "floor_ms": result.floor, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="a GGUF file")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = [measured(arguments.path, batch, arguments.runs) for batch in BATCHES]
    for row in rows:
        shown = ", ".join(f"{to} {ratio:.2f}" for to, ratio in row["ratios"].items())
        print(f"batch {row['batch']}: ours over {shown}")
    content = {
        **about(), "model": Path(arguments.path).name, "dtype": "float32",
        "prompt": PROMPT, "new": NEW, "results": rows,
    }  # fmt: skip
    arguments.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
