"""A sweep's results on the console: a table of points, and one of fronts."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from ..inputs.sections import FREE
from ..results.frames import Results, columns_of
from ..results.tables import Pivot, name_of


def points_shown(results: Results) -> Table:
    """Every point with its scores' means and intervals, and what it cost."""
    params, scores = columns_of(results.table)
    asked = results.run.score or {}
    scores += [name for name, score in asked.items() if score.recovered and name in results.points]
    shown = [name for name in scores if name not in FREE or name == "diversity"]
    heads = [name.removeprefix("param_") for name in params]
    table = Table("formula", "point", *heads, *shown, "tokens", "seconds", "tokens/s")
    for _, row in results.points.iterrows():
        cells = [str(row["formula"]), str(row["point"])]
        cells += ["" if row[name] != row[name] else f"{row[name]:g}" for name in params]
        cells += [_mean(row, name) for name in shown]
        cells += [str(row["tokens"]), f"{row['seconds']:.2f}", f"{row['tokens_per_second']:.0f}"]
        table.add_row(*cells)
    table.caption = "means with 95 % bootstrap intervals over prompts; seconds are of one row"
    return table


def pivot_shown(pivot: Pivot) -> Table:
    """One table of the run file."""
    table = Table(*pivot.over, *pivot.heads, title=pivot.name)
    for place, cells in pivot.rows:
        table.add_row(*map(name_of, place), *("" if cell is None else str(cell) for cell in cells))
    return table


def fronts_shown(results: Results) -> Table | None:
    """Every formula's front, or None where the run has no objectives."""
    front = results.front
    if not front["formulas"]:
        return None
    over = ", ".join(front["objectives"])
    table = Table(
        "formula", "front", "hypervolume", "mean inner product", "seconds", "tokens/s",
        title=f"the front over {over}",
    )  # fmt: skip
    for name, said in front["formulas"].items():
        mine = results.points[results.points["formula"] == name]
        elapsed = (mine["seconds"] * mine["n"]).sum()
        rate = mine["tokens"].sum() / elapsed if elapsed else float("nan")
        inner = said["mean_inner_product"]
        table.add_row(
            name, ", ".join(map(str, said["front"])), f"{said['hypervolume']:.4f}",
            "" if inner is None else f"{inner:.4f}", f"{elapsed / mine['n'].sum():.2f}",
            f"{rate:.0f}",
        )  # fmt: skip
    return table


def cost_shown(results: Results) -> str:
    """What the whole run cost."""
    meta = results.meta
    seconds, tokens = meta.get("seconds", 0.0), meta.get("tokens", 0)
    rate = tokens / seconds if seconds else 0.0
    rows = len(results.table)
    return f"{rows} completions, {tokens} tokens, {seconds:.1f} s of decoding, {rate:.0f} tokens/s"


def _mean(row: Any, name: str) -> str:
    value = row[name]
    if value != value:
        return ""
    return f"{value:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
