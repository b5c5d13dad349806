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
from bench.suite import target_of

MET, UNMET, FREE = "#2a9d8f", "#d1495b", "#8d99ae"


def text(suite: dict[str, Any], picture: str) -> str:
    """The report as Markdown.

    Args:
        suite: the JSON of ``bench.suite``.
        picture: the file name of the picture.
    """
    dtype, shape = suite["dtype"], suite["shape"]
    lines = [
        f"# {shape}, {dtype}, on {suite['processor']}",
        "",
        f"{suite['device']}, {suite['threads']} threads, copies "
        f"{suite['copy_bandwidth'] / 1e9:.3g} GB/s; descant {suite['descant']}, "
        f"torch {suite['torch']}, transformers {suite['transformers']}, Python {suite['python']}; "
        f"{'eager and captured' if suite['capture'] else 'eager'}, medians.",
        *_busy(suite),
        "",
        *_verdict(suite["results"]),
        "",
        f"![ratios against targets]({picture})",
        "",
        "Milliseconds per token of a row after its first, without reading the prompt. *plain* is "
        "transformers' `generate` with a LogitsProcessor that runs the other models with their own "
        "caches; *bare* the forwards alone, once per set of weights; *floor* reading the weights "
        "and caches at the copy bandwidth; *step* the median between two tokens of a row. For "
        "vectors and joining whole runs are timed, prompts and all; joining per token of all.",
    ]
    for name, rows in suite["results"].items():
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


def draw(suite: dict[str, Any], output: Path) -> None:
    """The picture: a panel per benchmark, a bar per case, a mark where its target is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    results = suite["results"]
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
    figure.suptitle(f"{suite['shape']}, {suite['dtype']}, {suite['processor']}")
    figure.savefig(output, dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, title: str, rows: Sequence[dict[str, Any]]) -> None:
    shown = [row["shown"] for row in rows]
    colours = [{True: MET, False: UNMET, None: FREE}[ratio["met"]] for ratio in shown]
    labels = [f"{row['name']}\n{_relation(row['shown'])}" for row in rows]
    values, positions = [ratio["value"] for ratio in shown], list(range(len(rows)))
    axis.barh(positions, values, color=colours, height=0.6)
    longest = max(values)
    for position, ratio in zip(positions, shown, strict=True):
        bound = _bound(ratio)
        label = f" {ratio['value']:.2f}"
        if bound is not None:
            longest = max(longest, bound)
            axis.plot(
                [bound, bound], [position - 0.42, position + 0.42], color="black", linewidth=2
            )
            label += f"  ({target_of(ratio)}: {'met' if ratio['met'] else 'not met'})"
        axis.text(max(ratio["value"], bound or 0.0), position, label, va="center", fontsize=8)
    axis.set_yticks(positions, labels, fontsize=8)
    axis.set_xlim(0, 1.6 * longest)
    axis.set_title(title, loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def _busy(suite: dict[str, Any]) -> list[str]:
    load = suite.get("load")
    if load is None or load < 0.5:
        return []
    return [f"Other work ran on this machine (a load of {load:.1f} at the start): expect noise."]


def _verdict(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    targets = [
        (name, row["name"], row["shown"])
        for name, rows in results.items()
        for row in rows
        if row["shown"]["met"] is not None
    ]
    if not targets:
        return ["No target is stated for this device, dtype and shape."]
    met = sum(ratio["met"] for *_, ratio in targets)
    lines = [f"**{met} of {len(targets)} targets met.**", ""]
    for name, case, ratio in targets:
        mark = "met" if ratio["met"] else "**not met**"
        lines.append(
            f"- {name}, {case}: {_relation(ratio)} {ratio['value']:.3f}, {target_of(ratio)}: {mark}"
        )
    return lines


def _cells(row: dict[str, Any], ways: Sequence[str]) -> list[str]:
    medians = {way: statistics.median(runs) for way, runs in row["runs"].items()}
    steps = row["steps"].get("captured") or row["steps"].get("ours")
    ratio = row["shown"]
    mark = {True: "met", False: "**not met**", None: ""}[ratio["met"]]
    return [
        row["name"], str(row["rows"]), str(row["prompt_length"]), str(row["new"]),
        str(len(row["runs"]["ours"])),
        *(f"{medians[way]:.3g}" if way in medians else "" for way in ways),
        f"{row['floor']:.3g}", f"{steps['median']:.3g}" if steps else "", f"{ratio['value']:.3f}",
        _relation(ratio), "" if ratio["met"] is None else target_of(ratio), mark,
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
        difference = row["captured_equals_eager"]
        if difference and difference["why_eager"]:
            lines.append(f"{row['name']}: not captured, for {difference['why_eager']}.")
        elif difference and "same" in difference:
            same = (
                "the same tokens"
                if difference["same"]
                else f"{difference['share']:.1%} of tokens equal"
            )
            lines.append(
                f"{row['name']}: captured against eager, {same}; scores differ by at most "
                f"{difference['scores']:.2g}."
            )
    return ["", *(f"- {line}" for line in lines)] if lines else []


def _title(name: str) -> str:
    return (BENCHMARKS[name].__doc__ or name).partition("\n")[0].rstrip(".")


def _relation(ratio: dict[str, Any]) -> str:
    if ratio["rows"]:
        return "tokens/s over one row's"
    return f"{ratio['top']} / {ratio['bottom']}"


def _bound(ratio: dict[str, Any]) -> float | None:
    return next((ratio[key] for key in ("at_most", "at_least") if ratio[key] is not None), None)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the raw numbers, write the report and the picture beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    file = parser.parse_args(arguments).results
    suite = json.loads(file.read_text())
    picture = file.with_suffix(".png")
    file.with_suffix(".md").write_text(text(suite, picture.name))
    draw(suite, picture)
    print(f"{file.with_suffix('.md')}, {picture}")


if __name__ == "__main__":
    main()
