"""What a step gives a large GPU, computed on a machine that has none.

``python -m bench.rehearsal`` takes a replayed step of each formula on fake devices
(``tests/rehearsal``): its launches, the bytes that they move, copies and waits are counted, and the
milliseconds computed from them, at 3.0 TB/s and 6.5e14 operations per second. A launch takes at
least 2 microseconds in a CUDA graph, 8 without. The floor is reading the weights and what is live
of the caches, once. Models are in bfloat16, caches have room for 2048 tokens.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from rehearsal import Rehearsal, Step
from rehearsal.account import EAGER

SHAPES = ("llama-2-7b", "llama-3.1-8b")
BATCHES, LENGTH = (1, 8, 64), 256
FORMULAS = {
    "one": "base",
    "three": "base + 0.5*help + 0.5*harm",  # three sets of weights
    "arms": "base + 0.5*arm_help + 0.5*arm_harm",  # one, with two adapters
    "rerank": "base | rerank(reward, k=10, w=1.5)",
}
RAGGED = (1900, *[LENGTH] * 7)
COLUMNS = (
    "shape", "formula", "rows", "launches", "floor_ms", "captured_ms", "eager_ms", "over_floor",
    "h2d", "d2h", "waits",
)  # fmt: skip


def makers(gpu: Rehearsal, shape: str) -> Mapping[str, Callable[[], Any]]:
    """How each declared model is made."""
    language = dict.fromkeys(("base", "help", "harm"), lambda: gpu.language_model(shape))
    arms = dict.fromkeys(("arm_help", "arm_harm"), lambda: gpu.lora("base"))
    return {**language, **arms, "reward": lambda: gpu.reward_model(shape)}


def steps(shape: str, formula: str, batches: Sequence[Sequence[int]]) -> Iterator[Step]:
    """A replayed step of each batch of prompts of such lengths."""
    with Rehearsal() as gpu:
        named = {name: make for name, make in makers(gpu, shape).items() if name in formula}
        models = {name: make() for name, make in named.items()}
        decoder = gpu.compile(formula, models)
        for lengths in batches:
            [*_, step] = gpu.steps(decoder, lengths, count=3, temperature=1.0)
            assert step.mode == "replayed"
            yield step


def row(shape: str, formula: str, rows: int, step: Step) -> dict[str, Any]:
    """One line of the table."""
    milliseconds = [step.floor(), step.seconds(), step.seconds(EAGER)]
    values = (
        shape, formula, rows, len(step.launches), *(round(1e3 * each, 6) for each in milliseconds),
        round(step.over_floor(), 4), len(step.h2d), len(step.d2h), len(step.waits),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def lines_of(shape: str, name: str, batches: Sequence[int]) -> list[dict[str, Any]]:
    """The lines of one formula: of each batch, or of rows of very different lengths."""
    if name == "ragged":
        [step] = steps(shape, FORMULAS["one"], [RAGGED])
        return [row(shape, name, len(RAGGED), step)]
    done = steps(shape, FORMULAS[name], [[LENGTH] * rows for rows in batches])
    return [row(shape, name, rows, step) for rows, step in zip(batches, done, strict=True)]


def measure(
    shapes: Sequence[str], batches: Sequence[int], processes: int
) -> Iterator[dict[str, Any]]:
    """Every line, in order, each formula worked out by some process."""
    cases = [(shape, name, batches) for shape in shapes for name in (*FORMULAS, "ragged")]
    if processes == 1:
        for case in cases:
            yield from lines_of(*case)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), _quiet) as pool:
        for lines in pool.map(lines_of, *zip(*cases, strict=True)):
            yield from lines


def _quiet() -> None:
    """Whatever a library has to say is no part of the table."""
    logging.disable(logging.WARNING)
    sys.stdout = sys.stderr


def line(cells: Sequence[Any]) -> str:
    """A line of the table."""
    widths = (12, 7, 4, 8, 8, 11, 8, 10, 3, 3, 5)
    return "  ".join(str(cell).rjust(width) for cell, width in zip(cells, widths, strict=True))


def main() -> None:
    """Print the table, or with ``--json`` the list of its lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a list, and nothing else")
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES)
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    options = parser.parse_args()
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        _print(options)
    finally:
        logging.disable(before)


def _print(options: argparse.Namespace) -> None:
    measured = measure(options.shapes, options.batches, options.processes)
    lines, output = [], sys.stdout
    if not options.json:
        print(line(COLUMNS))
    with redirect_stdout(sys.stderr):  # whatever a library has to say
        for each in measured:
            lines.append(each)
            if not options.json:
                print(line([*each.values()]), file=output, flush=True)
    if options.json:
        print(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
