"""A fit against reading its texts once: three coefficients, 10,000 tokens, a base of 512 x 8.

    python -m bench.fit [--vocabulary 32000] [--repeats 3]

Both are taken in turn in one process. Memory is what the process takes at most during a fit, beyond
what it held before.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import descant

FORMULA = "base + a*x + b*y + c*z"
TEXTS, LENGTH, PROMPT = 40, 250, 8


def model(vocabulary: int, hidden: int, layers: int, seed: int) -> LlamaForCausalLM:
    """A random Llama."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=4 * hidden,
        num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=8,
        max_position_embeddings=512, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    own = LlamaForCausalLM(config).eval()
    return own


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measured(vocabulary: int, repeats: int) -> dict[str, object]:
    """Seconds of both in turn, their ratio, and the memory of a fit."""
    base = model(vocabulary, 512, 8, 0)
    arms = {n: model(vocabulary, 256, 4, i) for i, n in enumerate(("x", "y", "z"), 1)}
    models = {"base": base, **arms}
    decoder = descant.compile(FORMULA, models, params={"a": 0.3, "b": 0.2, "c": 0.1})
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(vocabulary, (TEXTS, PROMPT), generator=generator).tolist()
    completions = torch.randint(vocabulary, (TEXTS, LENGTH), generator=generator).tolist()
    reading, fitting, peaks = list[float](), list[float](), list[int]()
    for _ in range(repeats):
        begin = time.perf_counter()
        decoder.loglikelihood(prompts, completions, progress=False)
        reading.append(time.perf_counter() - begin)
        Path("/proc/self/clear_refs").write_text("5")
        before, begin = _memory("VmRSS"), time.perf_counter()
        fit = decoder.fit(prompts, completions, progress=False)
        fitting.append(time.perf_counter() - begin)
        peaks.append(_memory("VmHWM") - before)
    ratios = [fit / read for fit, read in zip(fitting, reading, strict=True)]
    return {
        "vocabulary": vocabulary, "tokens": fit.tokens, "reading_s": reading,
        "fitting_s": fitting, "ratio": statistics.median(ratios), "peak_mb": max(peaks) / 1e6,
        "evaluations": len(fit.trace), "params": fit.params, "stderr": fit.stderr,
        "threads": torch.get_num_threads(), "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[1024, 32000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = [measured(each, options.repeats) for each in options.vocabulary]
    print(json.dumps(results, indent=1))
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
