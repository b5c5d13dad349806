"""Likelihoods of given texts: lm-evaluation-harness' own ``hf`` model, and a formula of one model.

    python -m bench.likelihood     the table, and bench/results/likelihood.json

The harness asks both for the same requests, in turn; what counts is processor time, of which a
machine with other work on it takes nothing. One thread, batches of 8, random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import descant
from descant.bench import shapes
from descant.bench.measure import processor
from descant.evaluation import DescantLM

RESULTS = Path(__file__).parent / "results" / "likelihood.json"
BATCH, RUNS = 8, 5
REPLIES, CONTINUATIONS, LETTERS, WHOLE = (
    "24 replies of 60 tokens, two per prompt",
    "48 continuations of 2 to 5 tokens, four per prompt of 320",
    "48 single letters, four per prompt of 320",
    "12 whole texts of 115 tokens",
)


def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A word for every token, so that lengths are what is asked for."""
    words = {"<s>": 0, "</s>": 1, **{f"w{i}": i for i in range(2, size)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def requests(size: int, short: int) -> dict[str, tuple[str, list[Instance]]]:
    """What is asked, by its name: the kind of request, and each of them.

    Args:
        size: of the vocabulary.
        short: by which every length is divided, for a look.
    """
    draw = random.Random(0)

    def text(count: int) -> str:
        return " ".join(f"w{draw.randrange(2, size)}" for _ in range(max(1, count // short)))

    def choices(prompts: int, each: int, before: int, after: Callable[[], int]) -> list[Instance]:
        asked = [text(before) for _ in range(prompts)]
        pairs = [(prompt, f" {text(after() * short)}") for prompt in asked for _ in range(each)]
        return [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]

    rolling = [Instance("loglikelihood_rolling", {}, (text(115),), i) for i in range(12)]
    return {
        REPLIES: ("loglikelihood", choices(12, 2, 20, lambda: 60 // short)),
        CONTINUATIONS: ("loglikelihood", choices(12, 4, 320, lambda: draw.randrange(2, 6))),
        LETTERS: ("loglikelihood", choices(12, 4, 320, lambda: 1)),
        WHOLE: ("loglikelihood_rolling", rolling),
    }


def measure(shape: str, runs: int, short: int = 1) -> dict[str, Any]:
    """Seconds of processor of every run, the least of each, and how far the answers are apart."""
    model = shapes.language_model(shape, 0, dtype=torch.float32, device="cpu")
    words = tokenizer(model.config.vocab_size)
    decoder = descant.compile("base", {"base": {"model": model, "tokenizer": words}})
    ours = DescantLM(decoder, batch_size=BATCH)
    theirs = HFLM(pretrained=model, tokenizer=words, batch_size=BATCH, device="cpu")
    found = {}
    for name, (kind, asked) in requests(model.config.vocab_size, short).items():
        times: dict[str, list[float]] = {"hf": [], "ours": []}
        said: dict[str, list[Any]] = {}
        for _ in range(runs):
            for way, one in (("hf", theirs), ("ours", ours)):
                start = time.process_time()
                said[way] = getattr(one, kind)(asked, disable_tqdm=True)
                times[way].append(time.process_time() - start)
        totals = [[x if isinstance(x, float) else x[0] for x in one] for one in said.values()]
        apart = max(abs(a - b) for a, b in zip(*totals, strict=True))
        least = {way: min(some) for way, some in times.items()}
        found[name] = {**least, "apart": apart, "runs": times}
    return found


def main() -> None:
    """Measure, print the table, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="small", choices=sorted(shapes.SHAPES))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    results = measure(given.shape, given.runs)
    said = {
        "shape": given.shape, "batch_size": BATCH, "dtype": "float32", "threads": 1,
        "processor": processor(), "load": load, "torch": torch.__version__,
        "transformers": transformers.__version__, "lm_eval": lm_eval.__version__,
        "descant": descant.__version__, "results": results,
    }  # fmt: skip
    for name, one in results.items():
        print(f"{name:60} hf {one['hf']:6.2f} s  ours {one['ours']:6.2f} s  apart {one['apart']:g}")
    given.output.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
