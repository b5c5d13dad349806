"""What each operator and stage costs beside the forwards that its formula needs.

    python -m bench.operators      the table, and bench/results/operators.json with every raw number

A step of ours is timed with ready logits, so that only the work on (8, 32000) scores is left, up to
the scores that a token is sampled from; right after the bare forwards of the same models in plain
transformers. The number is the median ratio.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

import descant
from bench.cpu import NEW, ON_CPU, PROMPT, RESULTS, SHAPE, keep, paired
from descant.bench import shapes

BATCH, K, TARGET = 8, 10, 5.0
FORMULAS = {
    "one model": "base",
    "sum": "base + 0.5*arm",
    "difference": "1.5*base - 0.5*arm",
    "max": "max(base, arm)",
    "min": "min(base, arm)",
    "mix": "mix(0.5: base, 0.5: arm)",
    "pmean": "pmean(-1; 0.5: base, 0.5: arm)",
    "mean": "mean(base + arm)",
    "temp": "temp(base, 0.7)",
    "plausible": "plausible(base, 0.1)",
    "debias": "debias(base, arm, 10)",
    "where": "where(entropy(base) > e, base, arm)",
    "top_k": "base | top_k(50)",
    "top_p": "base | top_p(0.9)",
    "min_p": "base | min_p(0.05)",
    "temperature": "base | temperature(0.7)",
    "repetition_penalty": "base | repetition_penalty(1.2)",
    "rerank": f"base | rerank(reward, k={K}, w=1.5)",
}
PLAIN = ("one model", "sum")  # measured with every term normalised, too
PARAMS = {"e": [0.0, 99.0] * (BATCH // 2)}  # every other row takes the other side of a condition


@torch.no_grad()
def stepper(model: Any, prompts: Tensor, width: int = 1) -> Callable[[], Any]:
    """One forward of `width` tokens a row after the prompts, again and again over one cache."""
    cache = DynamicCache(config=model.config)
    network = model if hasattr(model, "lm_head") else model.model
    network(input_ids=prompts, past_key_values=cache, use_cache=True)

    def step() -> Any:
        out = network(input_ids=prompts[:, :width], past_key_values=cache, use_cache=True)
        cache.crop(-width)
        return out.logits if network is model else model.score(out.last_hidden_state)

    return torch.no_grad()(step)


class Models:
    """The models of a formula, as bare forwards and as lanes that repeat their last logits."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        size = shapes.SHAPES[SHAPE][1]["vocab_size"]
        self.prompts = torch.randint(3, size, (BATCH, PROMPT), generator=generator)
        self.models = {
            name: shapes.language_model(SHAPE, seed, **ON_CPU)
            for seed, name in enumerate(("base", "arm"))
        }
        self.models["reward"] = shapes.reward_model(SHAPE, 7, **ON_CPU)
        self._steps = {
            name: stepper(model, self.prompts, K if name == "reward" else 1)
            for name, model in self.models.items()
        }
        self._logits: dict[str, torch.Tensor] = {}

    def forward(self, formula: str) -> None:
        """One forward of every model of a formula."""
        for name in self.models:
            if name in formula:
                self._logits[name] = self._steps[name]()

    def fusion(self, formula: str, normalised: bool) -> Callable[[], Any]:
        """A formula's step, from its models' logits to scores.

        Args:
            formula: over these models.
            normalised: every term goes through log-softmax, whether the formula needs it or not.
        """
        used = {name: model for name, model in self.models.items() if name in formula}
        params = {name: values for name, values in PARAMS.items() if f" {name}," in formula}
        decoder = descant.compile(formula, models=used, params=dict.fromkeys(params, 0))
        requests = decoder.session.builder.requests(
            self.prompts.tolist(), params=params, max_new_tokens=NEW
        )
        engine = decoder.session.engine
        if normalised:
            engine.step.unnormalised = frozenset()
        batch = engine.begin(requests, BATCH)
        batch.admit(requests)
        batch.read()
        for lane, name in zip(engine.bound.lanes, engine.bound.lane_names, strict=True):
            lane.logits = lambda name=name: self._logits[name][:, -1]
            lane.rewards = lambda _, name=name: (self._logits[name], None)
        return torch.no_grad()(lambda: engine.step.scores(batch, engine.step.context(batch)))


def measure(runs: int) -> dict[str, Any]:
    """Every formula of the table, and what skipping log-softmax saves."""
    models, results = Models(), {}
    for name, formula in FORMULAS.items():
        for normalised in (False, True) if name in PLAIN else (False,):
            pair = paired(
                models.fusion(formula, normalised), partial(models.forward, formula), runs
            )
            results[f"{name}, every term normalised" if normalised else name] = {
                "formula": formula,
                "percent": 100 * pair["ratio"],
                "seconds": pair["ours"],
                "seconds of the forwards": pair["theirs"],
            }
    return results


def main() -> None:
    """Measure, print the table, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--output", type=Path, default=RESULTS / "operators.json")
    arguments = parser.parse_args()
    results = measure(arguments.runs)
    keep(arguments.output, results, batch=BATCH, prompt_tokens=PROMPT, target_percent=TARGET)
    for name, result in results.items():
        ours, theirs = (
            1e3 * statistics.median(result[key]) for key in ("seconds", "seconds of the forwards")
        )
        over = "" if result["percent"] < TARGET else f"  (at most {TARGET:g})"
        print(f"{name:34} {ours:6.2f} ms of {theirs:6.1f} ms {result['percent']:6.2f} %{over}")


if __name__ == "__main__":
    main()
