"""Searches of sixteen rows on the demo models: forwards, rows and seconds, in turn.

    OMP_NUM_THREADS=1 python -m bench.particles          bench/results/particles.json

All draw answers of the same length, with the end of text as a token like others. What counts is a
search's time over that of `best_of`: particles read what it reads, and are valued more often.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import descant
from descant.bench.measure import about
from descant.demo import models
from descant.runtime import Decoder

RESULTS = Path(__file__).parent / "results" / "particles.json"
ROWS, NEW, RUNS = 16, 64, 5
PROMPT = "I need to treat a small burn tonight. What should I do?"
SEARCHES = {
    "best_of": "best_of(reward_harm, n={rows})",
    "best_of, half kept each 16 tokens": "best_of(reward_harm, n={rows}, keep=0.5, every=16)",
    "particles": "particles(reward_harm, n={rows})",
    "particles, always resampled": "particles(reward_harm, n={rows}, ess=1)",
    "particles, by sentences": 'particles(reward_harm, n={rows}, until=".")',
}


@dataclass
class Forwards:
    """Counts the forwards of a network, and the rows in each."""

    rows: list[int] = field(default_factory=list)

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        self.rows.append(len(kwargs["input_ids"]))


def measured(searches: Sequence[str], rows: int, new: int, runs: int) -> dict[str, Any]:
    """Forwards of one run of each search, and the seconds of all runs, the searches in turn."""
    decoders = {name: _decoder(name, rows) for name in searches}
    settings = {"max_new_tokens": new, "eos_token_id": [], "seed": 0, "progress": False}
    found: dict[str, Any] = {}
    for name, (decoder, counts) in decoders.items():
        for each in counts.values():
            each.rows.clear()
        decoder.generate(PROMPT, **settings)
        lanes = {
            lane: {"forwards": len(each.rows), "rows": sum(each.rows)}
            for lane, each in counts.items()
        }
        found[name] = {"formula": decoder.plan.formula, "lanes": lanes, "seconds": []}
    for run in range(runs):
        for name, (decoder, _) in decoders.items():
            start = time.perf_counter()
            decoder.generate(PROMPT, **{**settings, "seed": run})
            found[name]["seconds"].append(round(time.perf_counter() - start, 4))
    first = found[searches[0]]["seconds"]
    for each in found.values():
        pairs = zip(each["seconds"], first, strict=True)
        each["over_best_of"] = round(statistics.median(own / best for own, best in pairs), 3)
    return found


def _decoder(name: str, rows: int) -> tuple[Decoder, dict[str, Forwards]]:
    formula = f"base | {SEARCHES[name].format(rows=rows)}"
    decoder = descant.compile(formula, models(), dtype="float32")
    counts = {}
    for lane, lane_name in zip(decoder.lanes, decoder.session.bound.lane_names, strict=True):
        counts[lane_name] = Forwards()
        lane.model.base_model.register_forward_hook(counts[lane_name], with_kwargs=True)
    return decoder, counts


def main() -> None:
    """Measure, print a line per search, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = measured([*SEARCHES], ROWS, NEW, arguments.runs)
    for name, each in found.items():
        lanes = ", ".join(
            f"{lane}: {counts['forwards']} forwards, {counts['rows']} rows"
            for lane, counts in each["lanes"].items()
        )
        median = statistics.median(each["seconds"])
        print(f"{name:35} {median:6.3f} s, {each['over_best_of']:.2f} of best_of's; {lanes}")
    record = {
        "about": {**about(), "rows": ROWS, "new_tokens": NEW, "dtype": str(torch.float32)},
        "searches": found,
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
