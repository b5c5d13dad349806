"""A sweep's results on the console: tables of points and of fronts, and the cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from ..inputs.sections import FREE
from ..results.effects import NOTE
from ..results.frames import Results, columns_of
from ..results.tables import ResultTable
from ..scoring.effects import p_text
from ..scoring.intervals import Mean


def points_shown(results: Results) -> Table:
    """Every point: the means and intervals of its scores, and its cost."""
    params, scores = columns_of(results.table)
    declared = results.run.score or {}
    scores += [n for n, score in declared.items() if score.recovered and n in results.points]
    shown = [name for name in scores if name not in FREE or name == "diversity"]
    heads = [name.removeprefix("param_") for name in params]
    table = Table("formula", "point", *heads, *shown, "tokens", "seconds", "tokens/s")
    for _, row in results.points.iterrows():
        cells = [str(row["formula"]), str(row["point"])]
        cells += ["" if row[name] != row[name] else f"{row[name]:g}" for name in params]
        for name in shown:
            mean = Mean(row[name], row[f"{name}_low"], row[f"{name}_high"], row[f"{name}_n"])
            cells.append("" if mean.mean != mean.mean else str(mean))
        cells += [str(row["tokens"]), f"{row['seconds']:.2f}", f"{row['tokens_per_second']:.0f}"]
        table.add_row(*cells)
    table.caption = "means with 95 % bootstrap intervals over prompts; seconds are of one row"
    return table


def effects_shown(results: Results) -> Table | None:
    """Every point against the reference; None where there is nothing to compare."""
    if not len(results.effects):
        return None
    rows = results.effects.to_dict("records")
    return effects_rows(((f"{row['formula']}:{row['point']}", row) for row in rows),
                        rows[0]["against"])  # fmt: skip


def effects_rows(rows: Iterable[tuple[str, Mapping[str, Any]]], against: str) -> Table:
    """Effects as a table: what is compared, and ``Effect.figures`` with their ``score``."""
    table = Table("", "score", "difference", "d_z", "win rate", "p", "p (Holm)",
                  title=f"against {against}")  # fmt: skip
    for name, row in rows:
        means = [
            str(Mean(row[key], row[f"{key}_low"], row[f"{key}_high"], row["prompts"]))
            for key in ("difference", "win_rate")
        ]
        d_z = "" if row["d_z"] is None or row["d_z"] != row["d_z"] else f"{row['d_z']:.2f}"
        table.add_row(name, row["score"], means[0], d_z, means[1],
                      p_text(row["p"]), p_text(row["p_holm"]))  # fmt: skip
    table.caption = NOTE
    return table


def table_shown(table: ResultTable) -> Table:
    """One table of the run file."""
    shown = Table(*table.over, *table.heads, title=table.name)
    for line in table.lines():
        shown.add_row(*line)
    return shown


def fronts_shown(results: Results) -> Table | None:
    """The front of every formula; None where the run has no objectives."""
    front = results.front
    if not front["formulas"]:
        return None
    over = ", ".join(front["objectives"])
    table = Table(
        "formula", "front", "hypervolume", "mean inner product", "seconds", "tokens/s",
        title=f"the front over {over}",
    )  # fmt: skip
    for name, own in front["formulas"].items():
        points = results.points[results.points["formula"] == name]
        elapsed = (points["seconds"] * points["n"]).sum()
        rate = points["tokens"].sum() / elapsed if elapsed else float("nan")
        volume, inner = own["hypervolume"], own["mean_inner_product"]
        table.add_row(
            name, ", ".join(map(str, own["front"])), "" if volume is None else f"{volume:.4f}",
            "" if inner is None else f"{inner:.4f}", f"{elapsed / points['n'].sum():.2f}",
            f"{rate:.0f}",
        )  # fmt: skip
    return table


def cost_shown(results: Results) -> str:
    """The cost of the whole run."""
    meta = results.meta
    seconds, tokens = meta.get("seconds", 0.0), meta.get("tokens", 0)
    rate = tokens / seconds if seconds else 0.0
    rows = len(results.table)
    return f"{rows} completions, {tokens} tokens, {seconds:.1f} s of decoding, {rate:.0f} tokens/s"
