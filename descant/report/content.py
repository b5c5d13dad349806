"""The content of a report as plain data, small enough for one page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..results.effects import FIGURES, NOTE
from ..results.frames import Results, columns_of
from ..results.tables import tables_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Content:
    """The head of a page, and the data of its parts."""

    title: str
    formulas: list[dict[str, str]]
    facts: str
    data: dict[str, Any]


def content_of(results: Results, title: str) -> Content:
    """The content of a report."""
    table, points = results.table, results.points
    texts, plans, scores = _texts(results), results.meta.get("plan", {}), _scores(results)
    names = list(dict.fromkeys([*texts, *points["formula"], *table["formula"]]))
    params = [name.removeprefix("param_") for name in columns_of(table)[0]]
    score_names = [score["name"] for score in scores]
    prompts = table.drop_duplicates("id")[["id", "prompt"]]
    shown = _points(results, names, params, score_names)
    formulas = [{"name": name, "text": texts.get(name, "")} for name in names]
    data = {
        "formulas": [
            {**formula, "plan": plans.get(formula["name"]), "cost": _cost(table, formula["name"])}
            for formula in formulas
        ],
        "params": params,
        "objectives": [score["name"] for score in scores if score["objective"]],
        "scores": scores,
        "points": shown,
        "fronts": _fronts(results),
        "tables": _tables(results),
        "effects": _effects(results, names, shown),
        "prompts": [
            {"id": _value(row.id), "text": _text_of(row.prompt)} for row in prompts.itertuples()
        ],
        "completions": _completions(table, shown, names, score_names),
        "meta": _facts(results.meta),
    }  # fmt: skip
    counted = [(len(shown), "point"), (len(prompts), "prompt"), (len(table), "completion")]
    facts = ", ".join(f"{n:,} {noun}{'' if n == 1 else 's'}" for n, noun in counted)
    if results.meta.get("seconds"):
        facts += f"; decoded in {results.meta['seconds']:,.1f} s on {results.meta.get('device')}"
    if not results.meta.get("finished"):
        facts += "; not finished"
    heads = formulas if len(names) > 1 else [{"name": "", "text": formulas[0]["text"]}]
    return Content(title or "descant", heads, facts, data)


def _texts(results: Results) -> dict[str, str]:
    """Each formula's text by its name, with the sums of its merged adapters."""
    merged: Mapping[str, str] = getattr(results.run, "merge", {})
    texts = {}
    for name, formula in results.run.named.items():
        words = set(re.findall(r"\w+", formula))
        sums = [f"{name} = {text}" for name, text in merged.items() if name in words]
        texts[name] = "; ".join([formula, *sums])
    return texts


def _scores(results: Results) -> list[dict[str, Any]]:
    """The scores: objectives, the run file's others, and those of every run.

    For an objective with a minus, smaller is better. Where the file names none, all are shown.
    """
    goals = list(results.front.get("objectives") or ())
    signed = {goal.removeprefix("-"): goal.startswith("-") for goal in goals}
    table, (_, columns) = results.table, columns_of(results.table)
    numeric = [name for name in columns if table[name].dtype.kind in "fiub"]
    declared = [*signed, *(getattr(results.run, "score", None) or ())] or numeric
    names = list(dict.fromkeys([*declared, *numeric]))
    return [
        {"name": name, "objective": name in signed, "asked": name in declared,
         "label": f"{name} (smaller is better)" if signed.get(name) else name}
        for name in names
    ]  # fmt: skip


def _points(
    results: Results, names: list[str], params: list[str], scores: list[str]
) -> list[dict[str, Any]]:
    fronts, best = results.front.get("formulas", {}), results.front.get("front", ())
    points = []
    for row in results.points.to_dict("records"):
        values = {name: _value(row.get(f"param_{name}")) for name in params}
        shown = {
            name: [_value(row.get(key)) for key in (name, f"{name}_low", f"{name}_high")]
            for name in scores if _value(row.get(name)) is not None
        }  # fmt: skip
        on_front = row["point"] in fronts.get(row["formula"], {}).get("front", ())
        points.append({
            "f": names.index(row["formula"]), "point": _value(row["point"]), "scores": shown,
            "params": {name: value for name, value in values.items() if value is not None},
            "front": bool(on_front), "best": [row["formula"], row["point"]] in best,
            **{key: _value(row.get(key)) for key in ("n", "seconds", "tokens_per_second")},
        })  # fmt: skip
    return points


def _fronts(results: Results) -> dict[str, Any]:
    fronts = {}
    for name, front in results.front.get("formulas", {}).items():
        kept = {k: front.get(k) for k in ("hypervolume", "reference", "mean_inner_product")}
        points = int((results.points["formula"] == name).sum())
        fronts[name] = {**kept, "size": len(front.get("front", ())), "of": points}
    return fronts


def _tables(results: Results) -> list[dict[str, Any]]:
    """The run file's tables: the grouping of rows, heads, labels and cells."""
    return [
        {"name": pivot.name, "over": pivot.over, "heads": pivot.heads, "rows": [
            {"labels": labels, "cells": [c and [c.mean, c.low, c.high] for c in cells]}
            for labels, cells in pivot.rows
        ]} for pivot in tables_of(results.run, results.points)
    ]  # fmt: skip


def _effects(results: Results, names: list[str], points: list[dict[str, Any]]) -> dict[str, Any]:
    """Each point against the reference; ``at`` is its index among the points."""
    indices = {(names[point["f"]], point["point"]): i for i, point in enumerate(points)}
    rows = results.effects.to_dict("records")
    return {
        "against": rows[0]["against"] if rows else None, "note": NOTE,
        "scores": list(dict.fromkeys(row["score"] for row in rows)),
        "rows": [
            {"at": indices[row["formula"], row["point"]], "score": row["score"],
             **{key: _value(row[key]) for key in FIGURES}}
            for row in rows
        ],
    }  # fmt: skip


def _cost(table: pandas.DataFrame, formula: str) -> dict[str, Any]:
    """A formula's completions and tokens, and the seconds and the rate of one completion."""
    rows = table[table["formula"] == formula]
    tokens, seconds = int(rows["tokens"].sum()), float(rows["elapsed"].sum())
    return {
        "completions": len(rows), "tokens": tokens,
        "seconds": seconds / len(rows) if len(rows) else None,
        "tokens_per_second": tokens / seconds if seconds else None,
    }  # fmt: skip


def _completions(
    table: pandas.DataFrame, points: list[dict[str, Any]], names: list[str], scores: list[str]
) -> dict[str, Any]:
    """Every completion as a short row, with the indices of its point and its prompt."""
    indices = {(names[point["f"]], point["point"]): i for i, point in enumerate(points)}
    prompts = {_value(id): i for i, id in enumerate(table["id"].drop_duplicates())}
    kept = [name for name in scores if name in table.columns]
    rows = []
    for row in table.sort_values(["formula", "point", "sample"], kind="stable").to_dict("records"):
        index = indices.get((row["formula"], _value(row["point"])))
        if index is not None:
            rows.append([
                index, prompts[_value(row["id"])], _value(row["sample"]), _value(row["text"]),
                _value(row["tokens"]), _value(row["finish_reason"]),
                *(_short(row[name]) for name in kept),
            ])  # fmt: skip
    return {"scores": kept, "rows": rows}


def _facts(meta: Mapping[str, Any]) -> list[list[str]]:
    """The metadata of a run, as texts."""
    facts = []
    for key, value in meta.items():
        if key in ("plan", "schema", "models", "data") or value is None:
            continue
        if key == "git" and isinstance(value, Mapping):
            value = f"{value.get('revision')}{', changed since' if value.get('dirty') else ''}"
        elif isinstance(value, float):
            value = f"{value:,.1f}"
        facts.append([key, str(value)])
    if meta.get("seconds") and meta.get("tokens"):
        facts.append(["tokens per second", f"{meta['tokens'] / meta['seconds']:,.1f}"])
    return facts


def _text_of(prompt: Any) -> str:
    """A prompt as one text: chat messages joined, ids as a list."""
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        return "\n".join(f"{turn.get('role')}: {turn.get('content')}" for turn in prompt)
    return str(prompt)


def _value(value: Any) -> Any:
    """A cell as plain data; None for what is missing."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or value != value else value


def _short(value: Any) -> Any:
    value = _value(value)
    return float(f"{value:.5g}") if isinstance(value, float) else value
