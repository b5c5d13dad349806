"""What drafts save: tokens per second of formulas with a draft, with ``auto``, and without.

    OMP_NUM_THREADS=2 python -m bench.drafts               bench/results/drafts.json and .md
    OMP_NUM_THREADS=2 python -m bench.drafts arms          this alone; the others stay

The ways take turns in one process, on the same prompts and seeds, and their tokens are compared.
Forwards and the positions that they read are counted per model. How often a draft agrees is found
without drafting, too: what it would have drawn before each token of an answer, with the same noise.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import descant
from bench import draft_models, draft_report
from bench.draft_cases import CASES, Case
from descant.bench.measure import about
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime.scores.noise import gumbel, seed_key

RESULTS = Path(__file__).parent / "results" / "drafts.json"
PAIRS, AGREEING = 30, 3  # runs of each way, and answers along which a draft is asked
WAYS = ("none", "draft", "auto")
AUTO = 1.05  # asked for: seconds of auto over those without


@contextmanager
def counted(names: Mapping[int, str]) -> Iterator[dict[str, Counter[str]]]:
    """Per model, by the ``id`` of its weights, the forwards and the positions that they read."""
    found: dict[str, Counter[str]] = {}
    forward = TransformersLane._forward

    def counting(lane: Any, tokens: Any, *arguments: Any, **options: Any) -> Any:
        name = names.get(id(lane.model), type(lane.model).__name__)
        found.setdefault(name, Counter()).update(forwards=1, positions=tokens.numel())
        return forward(lane, tokens, *arguments, **options)

    TransformersLane._forward = counting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        TransformersLane._forward = forward  # type: ignore[method-assign]


def names_of(models: Mapping[str, Any]) -> dict[int, str]:
    """Names of models in memory, by their ``id``."""
    return {id(model): name for name, model in models.items()}


def options_of(case: Case, way: str, seed: int) -> dict[str, Any]:
    """What a way says to ``generate``."""
    options: dict[str, Any] = {
        "max_new_tokens": case.new, "temperature": case.temperature, "seed": seed,
        "eos_token_id": [], "progress": False,
    }  # fmt: skip
    if way == "none":
        return options
    if way == "auto":
        return options | {"draft": "auto"}
    return options | {"draft": case.draft, "draft_length": case.draft_length}


def run(case: Case, decoder: Any, names: Mapping[int, str], way: str, seed: int) -> dict[str, Any]:
    """One answer: its tokens, seconds, and what was counted."""
    prompt = case.prompt(seed, decoder.session.bound.vocabulary)
    options = options_of(case, way, seed)
    with counted(names) as found:
        start = time.perf_counter()
        [answer] = decoder.generate([prompt], **options)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens": [*answer.token_ids], "models": found}


def agreement(case: Case, models: Mapping[str, Any], answers: int = AGREEING) -> dict[str, Any]:
    """How often the draft would have drawn the formula's token, with its noise, where it stands."""
    decoder, draft = (descant.compile(each, models) for each in (case.formula, case.draft))
    size, agreed, nats = decoder.session.bound.vocabulary, list[bool](), list[float]()
    for seed in range(answers):
        prompt = case.prompt(seed, size)
        [answer] = decoder.generate([prompt], **options_of(case, "none", seed))
        tokens = torch.tensor(answer.token_ids)
        scores = draft.scores(prompt, answer.token_ids[:-1])
        logprobs = scores.log_softmax(-1)
        nats.append(float(torch.special.entr(logprobs.exp()).sum(-1).mean()))
        if case.temperature:
            keys = torch.tensor([seed_key(seed)] * len(tokens), dtype=torch.int32)
            noise = gumbel(keys, torch.arange(len(tokens)), size)
            logprobs = logprobs / case.temperature + noise
        agreed += (logprobs.argmax(-1) == tokens).tolist()
    return {"tokens": len(agreed), "agreed": sum(agreed) / len(agreed), "nats": nats}


def measure(
    case: Case, sizes: dict[str, int], pairs: int, new: int | None = None
) -> dict[str, Any]:
    """Every run of every way, in turn, and what they come to."""
    models = case.models(sizes)
    names = names_of(models)
    agrees = agreement(case, models, AGREEING if pairs > 2 else 1) if case.by_model else None
    decoder = descant.compile(case.formula, models)
    for way in WAYS:
        run(case, decoder, names, way, pairs)  # kernels, memory and models that only draft
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for seed in range(pairs):
        for way in WAYS[:: 1 if seed % 2 else -1]:
            runs[way].append(run(case, decoder, names, way, seed))
    return {
        "formula": case.formula, "draft": case.draft, "draft_length": case.draft_length,
        "temperature": case.temperature, "asked": case.asked, "rounds_only": case.rounds_only,
        "agreement": agrees, "aimed_at": case.agrees,
        "bytes": {
            name: draft_models.bytes_per_step(model)
            for name, model in models.items() if hasattr(model, "parameters")
        },
        **compared(runs), "runs": runs,
    }  # fmt: skip


def compared(runs: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Per way: tokens per second and per forward, and beside no draft, over pairs; quartiles."""
    plain, found = runs["none"], dict[str, Any]()
    for way, own in runs.items():
        ratios = [one["seconds"] / other["seconds"] for other, one in zip(own, plain, strict=True)]
        rates = [len(each["tokens"]) / each["seconds"] for each in own]
        counts: dict[str, Counter[str]] = {}
        for each in own:
            for name, count in each["models"].items():
                counts.setdefault(name, Counter()).update(count)
        found[way] = {
            "tokens_per_second": quartiles(rates), "sooner": quartiles(ratios),
            "tokens": sum(len(each["tokens"]) for each in own),
            "models": counts, "differ": differing(own, plain),
        }  # fmt: skip
    return {"ways": found}


def quartiles(values: Sequence[float]) -> list[float]:
    """The first, the median and the third."""
    return statistics.quantiles(values, n=4, method="inclusive")


def differing(own: Sequence[dict[str, Any]], plain: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Answers that are not those without a draft, and where each first differs."""
    first = []
    for one, other in zip(own, plain, strict=True):
        pairs = enumerate(zip(one["tokens"], other["tokens"], strict=False))
        if one["tokens"] != other["tokens"]:
            shorter = min(len(one["tokens"]), len(other["tokens"]))
            first.append(next((at for at, (a, b) in pairs if a != b), shorter))
    return {"answers": len(first), "of": len(own), "first": first}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, keep the raw numbers and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[], help=", ".join(CASES))
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--quick", action="store_true", help="tiny models, two pairs")
    parser.add_argument("--agreement", action="store_true", help="only how often drafts agree")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(CASES):
        parser.error(f"there is no case {', '.join(unknown)}: {', '.join(CASES)}")
    sizes = draft_models.TINY if options.quick else draft_models.SMALL
    pairs = 2 if options.quick else options.pairs
    if options.agreement:
        for name in options.names or CASES:
            if (case := CASES[name]).by_model:
                print(f"{name}: {agreement(case, case.models(sizes))}", flush=True)
        return
    results = json.loads(options.output.read_text())["results"] if options.output.is_file() else {}
    for name in options.names or CASES:
        found = measure(CASES[name], sizes, pairs)
        results[name] = {"about": about(), **found}
        gc.collect()
        content = {
            "device": "cpu", "dtype": "float32", "sizes": sizes, "pairs": pairs,
            "asked_for": {"auto": AUTO},
            "results": {each: results[each] for each in CASES if each in results},
        }  # fmt: skip
        options.output.write_text(json.dumps(content) + "\n")
        options.output.with_suffix(".md").write_text(draft_report.text(content))
        print(draft_report.line(name, found), flush=True)


if __name__ == "__main__":
    main()
