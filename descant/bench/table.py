"""The table of ``descant bench``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from ..disk import replace
from ..errors import ArgumentError
from ..grammar import did_you_mean
from ..results.lock import writing
from .measure import Result, Settings, environment, measure
from .shapes import SHAPES
from .workloads import WORKLOADS


def measured(
    console: Console, output: Path | None, workloads: list[str] | None, **options: Any
) -> list[Result]:
    """Measure, print the table, and keep the raw numbers.

    Args:
        output: a JSON file for every number.
        workloads: names of ``WORKLOADS``; all of them where None.
        **options: fields of ``Settings``; None is this machine's default.

    Raises:
        ValueError: an unknown workload, shape, device or dtype.
    """
    settings = _settings(options)
    names = workloads or [*WORKLOADS]
    for name in names:
        _known("workload", name, WORKLOADS)
    with writing(output) if output is not None else nullcontext():
        machine, results = environment(settings), []
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("measuring", total=len(names))
            for result in measure(settings, names):
                results.append(result)
                progress.advance(task)
        console.print(_table(results))
        console.print(
            "plain: transformers' generate with a LogitsProcessor that runs the other models; "
            "bare: the forwards alone; floor: reading the weights"
            + "; eager: ours without CUDA graphs"
            * settings.capture
        )
        console.print(
            f"{settings.shape}, {settings.dtype}, batch {settings.batch_size}, "
            f"{settings.prompt_length} + {settings.new} tokens, medians of {settings.runs}; "
            f"{machine['processor']}, {machine['threads']} threads, copies "
            f"{machine['copy_bandwidth'] / 1e9:.3g} GB/s; torch {machine['torch']}, "
            f"transformers {machine['transformers']}",
        )
        if output is not None:
            content = {**machine, "results": [asdict(result) for result in results]}
            replace(output, json.dumps(content, indent=1) + "\n")
            console.print(f"{output}: every run")
    return results


def _settings(options: dict[str, Any]) -> Settings:
    device = options["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ArgumentError(f"there is no device {device}; torch sees no GPU")
    cuda = device.startswith("cuda")
    dtype = options["dtype"] or ("bfloat16" if cuda else "float32")
    shape = options["shape"] or ("llama-2-7b" if cuda else "small")
    if options["capture"] and not cuda:
        raise ArgumentError("--capture needs a GPU: CUDA graphs are of CUDA devices")
    capture = cuda if options["capture"] is None else options["capture"]
    _known("shape", shape, SHAPES)
    _known("dtype", dtype, ("float32", "bfloat16", "float16"))
    chosen = {"device": device, "dtype": dtype, "shape": shape, "capture": capture}
    return Settings(**{**options, **chosen})


def _known(what: str, name: str, names: Any) -> None:
    if name not in names:
        near = did_you_mean(repr(name), [repr(known) for known in names])  # some have commas
        raise ArgumentError(f"there is no {what} {name!r}; {near}")


def _table(results: list[Result]) -> Table:
    ways, ratios = ["ours", "plain", "bare", "floor"], ["ours/bare", "ours/floor", "plain/ours"]
    if all("eager" in result.runs for result in results):
        ways.insert(1, "eager")
        ratios.append("eager/ours")
    columns = [Column(name, justify="right", no_wrap=True) for name in (*ways, *ratios)]
    name = Column("ms per token", no_wrap=True)
    table = Table(name, *columns, box=None, pad_edge=False, header_style="bold")
    for result in results:
        times = [f"{result.median(way):.3g}" for way in ways]
        quotients = [f"{result.ratio(*ratio.split('/')):.2f}" for ratio in ratios]
        table.add_row(result.name, *times, *quotients)
    return table
