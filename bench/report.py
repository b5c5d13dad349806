"""The report of a run of the suite: a table, and a picture of ratios against their targets.

    python -m bench.report bench/results/suite-cpu.json     the same names, with .md and .png

Nothing is measured here. The picture needs matplotlib: ``pip install descant[report]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.benchmarks import BENCHMARKS
from bench.suite import asked_of

MET, UNMET, FREE = "#2a9d8f", "#d1495b", "#8d99ae"


def text(said: dict[str, Any], picture: str) -> str:
    """The report as Markdown.

    Args:
        said: what ``bench.suite`` kept.
        picture: the file name of the picture.
    """
    dtype, shape = said["dtype"], said["shape"]
    lines = [
        f"# {shape}, {dtype}, on {said['processor']}",
        "",
        f"{said['device']}, {said['threads']} threads, copies {said['copy_bandwidth'] / 1e9:.3g} "
        f"GB/s; descant {said['descant']}, torch {said['torch']}, transformers "
        f"{said['transformers']}, Python {said['python']}; "
        f"{'eager and captured' if said['capture'] else 'eager'}, medians.",
        *_busy(said),
        "",
        *_verdict(said["results"]),
        "",
        f"![ratios against targets]({picture})",
        "",
        "Milliseconds per token of a row after its first, without reading the prompt. *plain* is "
        "transformers' `generate` with a LogitsProcessor that runs the other models with their own "
        "caches; *bare* the forwards alone, once per set of weights; *floor* reading the weights "
        "and caches at the copy bandwidth; *step* the median between two tokens of a row. For "
        "vectors and joining whole runs are timed, prompts and all; joining per token of all.",
    ]
    for name, rows in said["results"].items():
        ways = list(dict.fromkeys(way for row in rows for way in row["runs"]))
        head = [
            "",
            "rows",
            "prompt",
            "new",
            "runs",
            *ways,
            "floor",
            "step",
            "ratio",
            "",
            "target",
            "",
        ]
        lines += ["", f"## {list(BENCHMARKS).index(name) + 1}. {_title(name)}", ""]
        lines += [_line(head), _line(["---"] * len(head))]
        lines += [_line(_cells(row, ways)) for row in rows]
        lines += _notes(rows)
    return "\n".join(lines) + "\n"


def draw(said: dict[str, Any], output: Path) -> None:
    """The picture: a panel per benchmark, a bar per case, a mark where its target is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = said["results"]
    heights = [1.3 + len(rows) for rows in results.values()]
    columns = 2 if len(results) > 1 else 1
    rows_of_panels = -(-len(results) // columns)
    tallest = [max(heights[i * columns : (i + 1) * columns]) for i in range(rows_of_panels)]
    figure, axes = pyplot.subplots(
        rows_of_panels, columns, squeeze=False, layout="constrained",
        figsize=(6.5 * columns, 0.45 * sum(tallest) + 0.6), height_ratios=tallest,
    )  # fmt: skip
    for axis in axes.flat[len(results) :]:
        axis.set_axis_off()
    for i, (axis, (name, rows)) in enumerate(zip(axes.flat, results.items(), strict=False)):
        _panel(axis, f"{list(BENCHMARKS).index(name) + 1}. {name}", rows)
        axis.set_ylim(tallest[i // columns] - 1.8, -0.5)  # bars of one height in every panel
    figure.suptitle(f"{said['shape']}, {said['dtype']}, {said['processor']}")
    figure.savefig(output, dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, title: str, rows: Sequence[dict[str, Any]]) -> None:
    shown = [row["shown"] for row in rows]
    colours = [{True: MET, False: UNMET, None: FREE}[one["met"]] for one in shown]
    labels = [f"{row['name']}\n{_relation(row['shown'])}" for row in rows]
    values, places = [one["value"] for one in shown], list(range(len(rows)))
    axis.barh(places, values, color=colours, height=0.6)
    longest = max(values)
    for place, one in zip(places, shown, strict=True):
        bound = _bound(one)
        said = f" {one['value']:.2f}"
        if bound is not None:
            longest = max(longest, bound)
            axis.plot([bound, bound], [place - 0.42, place + 0.42], color="black", linewidth=2)
            said += f"  ({asked_of(one)}: {'met' if one['met'] else 'not met'})"
        axis.text(max(one["value"], bound or 0.0), place, said, va="center", fontsize=8)
    axis.set_yticks(places, labels, fontsize=8)
    axis.set_xlim(0, 1.6 * longest)
    axis.set_title(title, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _busy(said: dict[str, Any]) -> list[str]:
    load = said.get("load")
    if load is None or load < 0.5:
        return []
    return [f"Other work ran on this machine (a load of {load:.1f} at the start): expect noise."]


def _verdict(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    asked = [
        (name, row["name"], row["shown"])
        for name, rows in results.items()
        for row in rows
        if row["shown"]["met"] is not None
    ]
    if not asked:
        return ["No target is stated for this device, dtype and shape."]
    met = sum(one["met"] for *_, one in asked)
    lines = [f"**{met} of {len(asked)} targets met.**", ""]
    for name, case, one in asked:
        mark = "met" if one["met"] else "**not met**"
        lines.append(
            f"- {name}, {case}: {_relation(one)} {one['value']:.3f}, {asked_of(one)}: {mark}"
        )
    return lines


def _cells(row: dict[str, Any], ways: Sequence[str]) -> list[str]:
    medians = {way: statistics.median(runs) for way, runs in row["runs"].items()}
    steps = row["steps"].get("captured") or row["steps"].get("ours")
    one = row["shown"]
    mark = {True: "met", False: "**not met**", None: ""}[one["met"]]
    return [
        row["name"], str(row["rows"]), str(row["prompt_length"]), str(row["new"]),
        str(len(row["runs"]["ours"])),
        *(f"{medians[way]:.3g}" if way in medians else "" for way in ways),
        f"{row['floor']:.3g}", f"{steps['median']:.3g}" if steps else "", f"{one['value']:.3f}",
        _relation(one), "" if one["met"] is None else asked_of(one), mark,
    ]  # fmt: skip


def _notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        if row["joining"] and row["steps"]:
            for way, step in row["steps"].items():
                lines.append(
                    f"{row['name']}, {way}: the longest pause between two tokens of a row while "
                    f"others join is {step['longest']:.3g} ms; the median is {step['median']:.3g}."
                )
        found = row["captured_equals_eager"]
        if found and found["why_eager"]:
            lines.append(f"{row['name']}: not captured, for {found['why_eager']}.")
        elif found and "same" in found:
            same = "the same tokens" if found["same"] else f"{found['share']:.1%} of tokens equal"
            lines.append(
                f"{row['name']}: captured against eager, {same}; scores differ by at most "
                f"{found['scores']:.2g}."
            )
    return ["", *(f"- {one}" for one in lines)] if lines else []


def _title(name: str) -> str:
    return (BENCHMARKS[name].__doc__ or name).partition("\n")[0].rstrip(".")


def _relation(one: dict[str, Any]) -> str:
    if one["rows"]:
        return "tokens/s over one row's"
    return f"{one['top']} / {one['bottom']}"


def _bound(one: dict[str, Any]) -> float | None:
    return next((one[key] for key in ("at_most", "at_least") if one[key] is not None), None)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the raw numbers, write the report and the picture beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    file = parser.parse_args(arguments).results
    said = json.loads(file.read_text())
    picture = file.with_suffix(".png")
    file.with_suffix(".md").write_text(text(said, picture.name))
    draw(said, picture)
    print(f"{file.with_suffix('.md')}, {picture}")


if __name__ == "__main__":
    main()
