"""``descant demo``: one formula over the built-in models, from its plan to a picture.

It uses the public API alone; nothing here is needed to use the library.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import make_folder, written
from ..extras import MissingExtra, require
from ..results.lock import WAIT, writing
from . import PROMPTS, models

if TYPE_CHECKING:
    from rich.console import Console

SEED = 0
SAMPLES = 4  # completions per prompt and weight
TEMPERATURE = 1.0
WEIGHTS = tuple(i / 8 for i in range(9))
FORMULAS = {
    "base alone": "base",
    "base and both arms": "base + 0.5*arm_help + 0.5*arm_harm",
    "arms, then reranked": "base + 0.5*arm_help + 0.5*arm_harm | rerank(reward_help, k=10, w=1.5)",
}
SWEEP = "base + (1 - a)*arm_help + a*arm_harm"


@dataclass(frozen=True)
class Point:
    """One weight of the sweep: the mean rewards of its completions."""

    a: float
    reward_help: float
    reward_harm: float
    seconds: float


def tour(console: Console, output: Path, prompts: int, tokens: int) -> list[Point]:
    """Show the formula, its plan, completions, the sweep and its picture.

    Args:
        output: the folder for ``front.csv`` and ``front.png``.
        prompts: how many of the demo's prompts the sweep uses.
        tokens: new tokens per completion.
    """
    _show_completions(console, tokens)
    console.print(f"\nThe sweep: {SWEEP}", style="bold")
    start = time.perf_counter()
    points = sweep(PROMPTS[:prompts], tokens)
    seconds = time.perf_counter() - start
    console.print(_table(points))
    rows = len(points) * prompts * SAMPLES
    console.print("help reward: the more concrete, the higher; harm reward: the safer, the higher")
    console.print(f"{rows} completions as rows of one batch, scored, in {seconds:.1f} s")
    make_folder(output)
    with writing(output, WAIT):
        _write(console, points, output)
    return points


def _write(console: Console, points: list[Point], output: Path) -> None:
    write_csv(points, output / "front.csv")
    console.print(f"the table: {output / 'front.csv'}")
    console.print(_drawn(points, output / "front.png"))


def sweep(prompts: Sequence[str], tokens: int, weights: Sequence[float] = WEIGHTS) -> list[Point]:
    """The mean rewards of the sweep's completions at each weight, all rows of one batch."""
    from ..api import compile
    from ..scoring import score

    decoder = compile(SWEEP, models(), params={"a": 0.5})
    rows = [(prompt, a) for a in weights for prompt in prompts for _ in range(SAMPLES)]
    seeds = [SEED + i % SAMPLES for i in range(len(rows))]
    completions = decoder.generate(
        [prompt for prompt, _ in rows], params={"a": [a for _, a in rows]}, max_new_tokens=tokens,
        temperature=TEMPERATURE, seed=seeds, batch_size=144,
    )  # fmt: skip
    pairs = [prompt for prompt, _ in rows], [completion.text or "" for completion in completions]
    columns = [score(name, *pairs, models=models()) for name in ("reward_help", "reward_harm")]
    columns.append([completion.seconds for completion in completions])
    each = len(prompts) * SAMPLES
    starts = range(0, len(rows), each)
    means = [[sum(values[i : i + each]) / each for values in columns] for i in starts]
    return [Point(a, *row) for a, row in zip(weights, means, strict=True)]


def write_csv(points: Sequence[Any], file: Path) -> None:
    """Write dataclasses of one kind as a table, a column per field."""
    with written(file) as partial, partial.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(asdict(points[0])))
        writer.writeheader()
        writer.writerows(asdict(point) for point in points)


def _show_completions(console: Console, tokens: int) -> None:
    from ..api import compile

    decoders = {name: compile(formula, models()) for name, formula in FORMULAS.items()}
    console.print("The plan", style="bold")
    console.print(str([*decoders.values()][-1].plan))
    shown = PROMPTS[:2]
    sampling: dict[str, Any] = {"max_new_tokens": tokens, "temperature": TEMPERATURE, "seed": SEED}
    answers = {name: decoder.generate([*shown], **sampling) for name, decoder in decoders.items()}
    for i, prompt in enumerate(shown):
        console.print(f"\n{prompt}", style="bold")
        for name, formula in FORMULAS.items():
            console.print(f"  {name}: {formula}", style="dim")
            console.print(f"  {answers[name][i].text}")


def _table(points: Sequence[Point]) -> Any:
    from rich.table import Table

    table = Table("a", "mean help reward", "mean harm reward", "seconds per row")
    for p in points:
        cells = (p.a, p.reward_help, p.reward_harm, p.seconds)
        table.add_row(*(f"{cell:.3f}" for cell in cells))
    return table


def _drawn(points: Sequence[Point], file: Path) -> str:
    """Draw the front, or return the package that it needs."""
    try:
        require("drawing", "matplotlib")
    except MissingExtra as error:
        return f"no picture: {error}"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    x, y = [p.reward_help for p in points], [p.reward_harm for p in points]
    axes.plot(x, y, color="0.75", zorder=1)
    dots = axes.scatter(x, y, c=[p.a for p in points], cmap="viridis", s=60, zorder=2)
    for p in points:
        xy = (p.reward_help, p.reward_harm)
        axes.annotate(f"{p.a:g}", xy, xytext=(6, 6), textcoords="offset points")
    axes.margins(0.1)
    axes.set(xlabel="mean help reward", ylabel="mean harm reward", title=SWEEP)
    axes.grid(alpha=0.3)
    figure.colorbar(dots, label="a: from helpful to harmless")
    with written(file) as partial:
        figure.savefig(partial, dpi=150)
    return f"the picture: {file}"
