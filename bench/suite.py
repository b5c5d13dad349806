"""The benchmarks of one step: at the memory floor, captured, and shared.

    python -m bench.suite                     this machine, and bench/results/suite-cpu.json
    python -m bench.suite shared whole        these alone; the others in the file stay
    python -m bench.suite --no-capture        on a GPU: eager steps alone, else captured ones, too

The models have random weights and are made in memory, one set for all benchmarks. Each result is
kept as it is done, with what it was measured on; ``python -m bench.report FILE`` shows them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from bench.benchmarks import BENCHMARKS, SIZES, Case, Ratio, Sizes
from bench.joining import arrivals, pauses
from bench.ways import Ways
from descant.bench.exact import difference
from descant.bench.measure import Result, Settings, environment, floor, pool_of, timed
from descant.bench.shapes import SHAPES
from descant.bench.workloads import Pool
from descant.grammar import did_you_mean

RESULTS = Path(__file__).parent / "results"
EXACT = 8  # tokens over which captured and eager are compared
# Results in one file may differ in these; each row has its own.
OWN = ("runs", "new", "prompt_length", "copy_bandwidth", "load")


def measure(
    names: Sequence[str], settings: Settings, sizes: Sizes
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every case of these benchmarks, as it is done: the benchmark's name, and a row of numbers."""
    chosen = [(name, case) for name in names for case in BENCHMARKS[name](sizes)]
    with tempfile.TemporaryDirectory() as scratch:
        pool = pool_of(settings, Path(scratch))
        for i, (name, case) in enumerate(chosen):
            pool.keep(frozenset().union(*(later.workload.weights for _, later in chosen[i:])))
            yield name, row(case, pool, settings)


def row(case: Case, pool: Pool, settings: Settings) -> dict[str, Any]:
    """One case, measured."""
    ways = Ways(case, pool, settings)
    own = ways.settings
    rows = own.batch_size * max(1, case.vectors)
    limit = floor(ways.decoder, replace(own, batch_size=rows))
    runs = timed(ways.by_name(), own, with_prefill=case.prompts_count)
    if ways.arrivals is not None:  # answers differ in length: per token of them all
        part = own.new / sum(ways.arrivals.answers(own.new))
        runs = {way: [part * each for each in every] for way, every in runs.items()}
    result = Result(case.name, case.workload.formula, limit, runs)
    return {
        **asdict(result),
        "rows": rows,
        "prompt_length": own.prompt_length,
        "new": own.new,
        "joining": case.joining,
        "shown": shown(case.ratio_for(settings), result, rows),
        "steps": {} if case.vectors else steps(ways),
        "captured_equals_eager": exact(ways) if ways.captured is not None else None,
    }


def shown(ratio: Ratio, result: Result, rows: int) -> dict[str, Any]:
    """The ratio of a case, its target, and whether that is met."""
    best = "captured" if "captured" in result.runs else "ours"
    top, bottom = (best if way == "ours" else way for way in (ratio.top, ratio.bottom))
    value = result.ratio(top, bottom) * (rows if ratio.rows else 1)
    return {**asdict(ratio), "top": top, "bottom": bottom, "value": value, "met": ratio.met(value)}


def steps(ways: Ways) -> dict[str, dict[str, float]]:
    """Milliseconds between a row's tokens in one run: the median, and the longest pause."""
    own, measured = ways.settings, {}
    arriving = ways.arrivals or arrivals(ways.prompts, own.batch_size, alike=True)
    for way, decoder in (("ours", ways.decoder), ("captured", ways.captured)):
        if decoder is not None:
            waited = pauses(decoder, arriving, own.new + 1)
            measured[way] = {"median": statistics.median(waited), "longest": max(waited)}
    return measured


def exact(ways: Ways) -> dict[str, Any] | None:
    """Captured against eager, with the reason why a step is not captured, if any."""
    why = "; ".join(ways.captured.session.engine.graphs.eager()) or None
    if ways.case.vectors or ways.case.joining:
        return {"why_eager": why}
    measured = difference(ways.captured, ways.decoder, ways.prompts[:4].tolist(), EXACT)
    return {"why_eager": why, **measured}


def settings_of(options: argparse.Namespace, sizes: Sizes) -> Settings:
    """What is measured.

    Raises:
        ValueError: an unknown shape, dtype or benchmark, or a missing device.
    """
    cuda = options.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        raise ValueError(f"there is no device {options.device}; torch sees no GPU")
    if options.capture and not cuda:
        raise ValueError("--capture needs a GPU: give --device cuda, or leave it out")
    for what, name, names in (
        ("shape", options.shape or "small", SHAPES),
        ("dtype", options.dtype or "float32", ("float32", "bfloat16", "float16")),
        *(("benchmark", name, BENCHMARKS) for name in options.names),
    ):
        if name not in names:
            raise ValueError(f"there is no {what} {name!r}; {did_you_mean(name, names)}")
    return Settings(
        options.shape or ("llama-2-7b" if cuda else "small"), options.batch_size, sizes.prompt,
        sizes.new, options.runs, options.device,
        options.dtype or ("bfloat16" if cuda else "float32"),
        cuda if options.capture is None else options.capture,
    )  # fmt: skip


def keep(output: Path, about: dict[str, Any], results: dict[str, list[Any]]) -> None:
    """Write the results, with those of other benchmarks under the same settings."""
    before = json.loads(output.read_text()) if output.is_file() else {**about, "results": {}}
    other = [key for key in about if key not in OWN and before.get(key) != about[key]]
    if other:
        print(f"{output}: earlier results are replaced, for they have another {', '.join(other)}")
    kept = {**({} if other else before["results"]), **results}
    ordered = {name: kept[name] for name in BENCHMARKS if name in kept}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**about, "results": ordered}, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, say each ratio as it is known, and keep the raw numbers."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[], help=", ".join(BENCHMARKS))
    parser.add_argument("--shape", help=", ".join(SHAPES))
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--prompt-length", type=int)
    parser.add_argument("--max-new-tokens", type=int)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--capture", action=argparse.BooleanOptionalAction)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    kind = options.device.partition(":")[0]
    sizes = SIZES[kind].of(options.prompt_length, options.max_new_tokens)
    settings = settings_of(options, sizes)
    output = options.output or RESULTS / f"suite-{kind}.json"
    names = options.names or list(BENCHMARKS)
    results: dict[str, list[Any]] = {}
    about = environment(settings)  # before the load is our own
    start = time.perf_counter()
    for name, measured in measure(names, settings, sizes):
        results.setdefault(name, []).append(measured)
        print(f"{time.perf_counter() - start:5.0f} s  {name:9} {line(measured)}", flush=True)
        keep(output, about, results)


def line(measured: dict[str, Any]) -> str:
    """A case in one line."""
    about = measured["shown"]
    mark = {True: "met", False: "NOT MET", None: ""}[about["met"]]
    target = "" if about["met"] is None else f"(target {target_of(about)}: {mark})"
    relation = f"{about['top']} / {about['bottom']}"
    return f"{measured['name']:24} {relation:22} {about['value']:7.3f}  {target}"


def target_of(about: dict[str, Any]) -> str:
    """``at most 1.15``."""
    if about["at_most"] is not None:
        return f"at most {about['at_most']:g}"
    return "none" if about["at_least"] is None else f"at least {about['at_least']:g}"


if __name__ == "__main__":
    main()
