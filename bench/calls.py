"""Python calls of ours per token: what the host does in a step, whatever the device does.

``python -m bench.calls`` writes ``bench/results/calls.json``. Table models, so that nothing but the
loop is counted: calls into descant's own files (``sys.setprofile``), per decoding step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import descant

STEPS = 40
TARGETS = {"calls": 70, "per model": 8, "per row": 2}
ROOMS = tuple(
    str(Path(descant.__file__).resolve().parents[up] / room)
    for up, room in ((1, "grammar"), (1, "formula"), (1, "models"), (1, "runtime"), (0, ""))
)


def calls(models: int, rows: int, steps: int = STEPS) -> Counter[str]:
    """Calls into descant's files while ``steps`` tokens are decoded, prompts left out.

    Args:
        models: table models in the formula, each with a coefficient of its own.
        rows: prompts in the batch.
        steps: tokens of each row.
    """
    tables = {f"m{i}": descant.TableModel.random(16, seed=i) for i in range(models)}
    formula = " + ".join(f"{(i + 1) / 2:g}*m{i}" for i in range(models))
    decoder = descant.compile(formula, models=tables)
    prompts = [[1 + i % 8] for i in range(rows)]
    settings: dict[str, Any] = {"eos_token_id": [], "batch_size": rows, "progress": False}
    decoder.generate(prompts, max_new_tokens=2, **settings)
    short = counted(lambda: decoder.generate(prompts, max_new_tokens=4, **settings))
    long = counted(lambda: decoder.generate(prompts, max_new_tokens=4 + steps, **settings))
    return long - short


def counted(work: Callable[[], Any]) -> Counter[str]:
    """Calls of each function of ours while ``work`` runs."""
    counts: Counter[str] = Counter()

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and (file := frame.f_code.co_filename).startswith(ROOMS):
            counts[f"{Path(file).name}:{frame.f_code.co_qualname}"] += 1

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counts


def per_token(models: int, rows: int) -> float:
    """Calls per step."""
    return calls(models, rows).total() / STEPS


def measured() -> dict[str, float]:
    """The three numbers: two models and one row, each further model, each further row."""
    start = per_token(2, 1)
    return {
        "calls": start,
        "per model": (per_token(6, 1) - start) / 4,
        "per row": (per_token(2, 9) - start) / 8,
    }


def main() -> None:
    """Measure, print, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="every function and its calls")
    parser.add_argument("--output", type=Path, default=Path("bench/results/calls.json"))
    arguments = parser.parse_args()
    if arguments.list:
        for name, count in calls(2, 1).most_common():
            print(f"{count / STEPS:6.2f}  {name}")
    numbers = measured()
    for name, value in numbers.items():
        print(f"{name:10} {value:6.1f}  (target {TARGETS[name]})")
    arguments.output.write_text(json.dumps({"steps": STEPS, **numbers}, indent=1) + "\n")


if __name__ == "__main__":
    main()
