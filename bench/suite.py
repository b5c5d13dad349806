"""The benchmarks of one step: at the memory floor, captured, and shared.

    python -m bench.suite                     this machine, and bench/results/suite-cpu.json
    python -m bench.suite shared whole        these alone; the others in the file stay
    python -m bench.suite --capture           on a GPU: eager and captured in one run

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
from bench.exact import difference
from bench.joining import arrivals, pauses
from bench.ways import Ways
from descant.bench.measure import Result, Settings, environment, floor, pool_of, timed
from descant.bench.shapes import SHAPES
from descant.bench.workloads import Pool
from descant.grammar import did_you_mean

RESULTS = Path(__file__).parent / "results"
EXACT = 8  # tokens over which captured and eager are compared
# What results in one file may differ in; a row says its own.
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
    made = Ways(case, pool, settings)
    own = made.settings
    rows = own.batch_size * max(1, case.vectors)
    limit = floor(made.decoder, replace(own, batch_size=rows))
    runs = timed(made.ways(), own, whole=case.prompts_count)
    if made.arrivals is not None:  # answers differ in length: per token of them all
        part = own.new / sum(made.arrivals.answers(own.new))
        runs = {way: [part * each for each in every] for way, every in runs.items()}
    result = Result(case.name, case.workload.formula, limit, runs)
    return {
        **asdict(result),
        "rows": rows,
        "prompt_length": own.prompt_length,
        "new": own.new,
        "joining": case.joining,
        "shown": shown(case.asked(settings), result, rows),
        "steps": {} if case.vectors else steps(made),
        "captured_equals_eager": exact(made) if made.captured is not None else None,
    }


def shown(ratio: Ratio, result: Result, rows: int) -> dict[str, Any]:
    """What counts of a case: the ratio, its target, and whether that is met."""
    best = "captured" if "captured" in result.runs else "ours"
    top, bottom = (best if way == "ours" else way for way in (ratio.top, ratio.bottom))
    value = result.ratio(top, bottom) * (rows if ratio.rows else 1)
    return {**asdict(ratio), "top": top, "bottom": bottom, "value": value, "met": ratio.met(value)}


def steps(made: Ways) -> dict[str, dict[str, float]]:
    """Milliseconds between a row's tokens in one run: the median, and the longest pause."""
    own, found = made.settings, {}
    asked = made.arrivals or arrivals(made.prompts, own.batch_size, alike=True)
    for way, decoder in (("ours", made.decoder), ("captured", made.captured)):
        if decoder is not None:
            waited = pauses(decoder, asked, own.new + 1)
            found[way] = {"median": statistics.median(waited), "longest": max(waited)}
    return found


def exact(made: Ways) -> dict[str, Any] | None:
    """Captured against eager, with what keeps a step from being captured, if anything does."""
    why = made.captured.session.engine.graphs.why_eager
    if made.case.vectors or made.case.joining:
        return {"why_eager": why}
    found = difference(made.captured, made.decoder, made.prompts[:4].tolist(), EXACT)
    return {"why_eager": why, **found}


def settings_of(given: argparse.Namespace, sizes: Sizes) -> Settings:
    """What is measured.

    Raises:
        ValueError: an unknown shape, dtype or benchmark, or a device that is not there.
    """
    cuda = given.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        raise ValueError(f"the device {given.device} is not there; torch sees no GPU")
    if given.capture and not cuda:
        raise ValueError("--capture needs a GPU: give --device cuda, or leave it out")
    for what, name, names in (
        ("shape", given.shape or "small", SHAPES),
        ("dtype", given.dtype or "float32", ("float32", "bfloat16", "float16")),
        *(("benchmark", name, BENCHMARKS) for name in given.names),
    ):
        if name not in names:
            raise ValueError(f"there is no {what} {name!r}; {did_you_mean(name, names)}")
    return Settings(
        given.shape or ("llama-2-7b" if cuda else "small"), given.batch_size, sizes.prompt,
        sizes.new, given.runs, given.device, given.dtype or ("bfloat16" if cuda else "float32"),
        given.capture,
    )  # fmt: skip


def keep(output: Path, said: dict[str, Any], results: dict[str, list[Any]]) -> None:
    """Write the results down, beside those of other benchmarks that were measured alike."""
    before = json.loads(output.read_text()) if output.is_file() else {**said, "results": {}}
    other = [key for key in said if key not in OWN and before.get(key) != said[key]]
    if other:
        print(f"{output}: what was there is replaced, for it has another {', '.join(other)}")
    kept = {**({} if other else before["results"]), **results}
    ordered = {name: kept[name] for name in BENCHMARKS if name in kept}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**said, "results": ordered}, indent=1) + "\n")


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
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args(arguments)
    kind = given.device.partition(":")[0]
    sizes = SIZES[kind].of(given.prompt_length, given.max_new_tokens)
    settings = settings_of(given, sizes)
    output = given.output or RESULTS / f"suite-{kind}.json"
    names = given.names or list(BENCHMARKS)
    results: dict[str, list[Any]] = {}
    said = environment(settings)  # before the load is our own
    start = time.perf_counter()
    for name, found in measure(names, settings, sizes):
        results.setdefault(name, []).append(found)
        print(f"{time.perf_counter() - start:5.0f} s  {name:9} {line(found)}", flush=True)
        keep(output, said, results)


def line(found: dict[str, Any]) -> str:
    """A case in one line."""
    said = found["shown"]
    mark = {True: "met", False: "NOT MET", None: ""}[said["met"]]
    target = "" if said["met"] is None else f"(target {asked_of(said)}: {mark})"
    relation = f"{said['top']} / {said['bottom']}"
    return f"{found['name']:24} {relation:22} {said['value']:7.3f}  {target}"


def asked_of(said: dict[str, Any]) -> str:
    """``at most 1.15``."""
    if said["at_most"] is not None:
        return f"at most {said['at_most']:g}"
    return "none" if said["at_least"] is None else f"at least {said['at_least']:g}"


if __name__ == "__main__":
    main()
