"""What a report shows, as plain data: a sweep's results made small enough to lie in one page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..results.tables import tables_of

if TYPE_CHECKING:
    import pandas

_OF_A_ROW = (
    "schema", "formula", "point", "id", "sample", "prompt", "text", "tokens", "token_ids",
    "finish_reason", "elapsed", "seed",
)  # fmt: skip
_PARAM = "param_"


class Results(Protocol):
    """What ``descant.results.load`` gives."""

    @property
    def run(self) -> Any:
        """The run file."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """Versions, device, seeds and times."""

    @property
    def table(self) -> pandas.DataFrame:
        """A row per completion."""

    @property
    def points(self) -> pandas.DataFrame:
        """A row per formula and point."""

    @property
    def front(self) -> Mapping[str, Any]:
        """Objectives and fronts."""


@dataclass(frozen=True)
class Content:
    """What a page shows: its head, and the data of its parts."""

    title: str
    eyebrow: str
    formulas: list[dict[str, str]]
    facts: str
    data: dict[str, Any]


def content_of(results: Results, title: str) -> Content:
    """The content of a report."""
    table, points = results.table, results.points
    names = list(dict.fromkeys([*_texts(results), *points["formula"], *table["formula"]]))
    texts, plans = _texts(results), results.meta.get("plan", {})
    params = [name.removeprefix(_PARAM) for name in table.columns if name.startswith(_PARAM)]
    scores = _scores(results)
    prompts = table.drop_duplicates("id")[["id", "prompt"]]
    shown = _points(results, names, params, [one["name"] for one in scores])
    costs = _costs(results, names)
    data = {
        "formulas": [
            {"name": name, "text": texts.get(name, ""), "plan": plans.get(name), "cost": cost}
            for name, cost in costs.items()
        ],
        "params": params,
        "objectives": [one["name"] for one in scores if one["objective"]],
        "scores": scores,
        "points": shown,
        "fronts": _fronts(results, names),
        "tables": _tables(results),
        "prompts": [
            {"id": _value(row.id), "text": _text_of(row.prompt)} for row in prompts.itertuples()
        ],
        "completions": _completions(table, shown, names, [one["name"] for one in scores]),
        "meta": _said(results.meta),
    }  # fmt: skip
    counted = [(len(shown), "point"), (len(prompts), "prompt"), (len(table), "completion")]
    facts = ", ".join(f"{n:,} {noun}{'' if n == 1 else 's'}" for n, noun in counted)
    if results.meta.get("seconds"):
        facts += f"; decoded in {results.meta['seconds']:,.1f} s on {results.meta.get('device')}"
    if not results.meta.get("finished"):
        facts += "; not finished"
    heads = [
        {"name": name if len(names) > 1 else "", "text": texts.get(name, "")} for name in names
    ]
    return Content(title or "descant", "descant sweep", heads, facts, data)


def _texts(results: Results) -> dict[str, str]:
    """Each formula's text by its name, and what adapters that it names are merged from."""
    run = results.run
    named: Mapping[str, str] = getattr(run, "formulas", None) or {"formula": run.formula}
    merged: Mapping[str, str] = getattr(run, "merge", None) or {}

    def text(formula: str) -> str:
        words = set(re.findall(r"\w+", formula))
        said = [f"{name} = {merged[name]}" for name in merged if name in words]
        return "; ".join([formula, *said])

    return {name: text(formula) for name, formula in named.items()}


def _scores(results: Results) -> list[dict[str, Any]]:
    """The scores: objectives, others that the run file asks for, and what is always measured.

    Of an objective with a minus the smaller is the better. Where none is asked for, all are.
    """
    goals = list(results.front.get("objectives") or ())
    signed = {goal.removeprefix("-"): goal.startswith("-") for goal in goals}
    found = [
        name for name in results.table.columns if name not in _OF_A_ROW
        and not name.startswith(_PARAM) and results.table[name].dtype.kind in "fiub"
    ]  # fmt: skip
    asked = list(dict.fromkeys([*signed, *(getattr(results.run, "score", None) or ())])) or found
    names = list(dict.fromkeys([*asked, *found]))
    return [
        {"name": name, "objective": name in signed, "asked": name in asked,
         "label": f"{name} (smaller is better)" if signed.get(name) else name}
        for name in names
    ]  # fmt: skip


def _points(
    results: Results, names: list[str], params: list[str], scores: list[str]
) -> list[dict[str, Any]]:
    fronts, best = results.front.get("formulas", {}), results.front.get("front", ())
    found = []
    for row in results.points.to_dict("records"):
        values = {name: _value(row.get(_PARAM + name)) for name in params}
        said = {}
        for name in scores:
            if _value(row.get(name)) is not None:
                said[name] = [_value(row.get(key)) for key in (name, f"{name}_low", f"{name}_high")]
        place = row["point"] in fronts.get(row["formula"], {}).get("front", ())
        found.append({
            "f": names.index(row["formula"]), "point": _value(row["point"]), "scores": said,
            "params": {name: value for name, value in values.items() if value is not None},
            "front": bool(place), "best": [row["formula"], row["point"]] in best,
            **{key: _value(row.get(key)) for key in ("n", "seconds", "tokens_per_second")},
        })  # fmt: skip
    return found


def _fronts(results: Results, names: list[str]) -> dict[str, Any]:
    found = {}
    for name, one in results.front.get("formulas", {}).items():
        if name in names:
            kept = {k: one.get(k) for k in ("hypervolume", "reference", "mean_inner_product")}
            of = int((results.points["formula"] == name).sum())
            found[name] = {**kept, "size": len(one.get("front", ())), "of": of}
    return found


def _tables(results: Results) -> list[dict[str, Any]]:
    """The run file's tables: what rows go over, heads, labels and cells."""
    if not getattr(results.run, "tables", None):
        return []
    return [
        {"name": one.name, "over": one.over, "heads": one.heads, "rows": [
            {"labels": place, "cells": [c and [c.mean, c.low, c.high] for c in cells]}
            for place, cells in one.rows
        ]} for one in tables_of(results.run, results.points)
    ]  # fmt: skip


def _costs(results: Results, names: list[str]) -> dict[str, dict[str, Any]]:
    """Completions and tokens of each formula, and the seconds and the rate of one completion."""
    found = {}
    for name in names:
        rows = results.table[results.table["formula"] == name]
        tokens, seconds = int(rows["tokens"].fillna(0).sum()), float(rows["elapsed"].sum())
        found[name] = {
            "completions": len(rows), "tokens": tokens,
            "seconds": seconds / len(rows) if len(rows) else None,
            "tokens_per_second": tokens / seconds if seconds else None,
        }  # fmt: skip
    return found


def _completions(
    table: pandas.DataFrame, points: list[dict[str, Any]], names: list[str], scores: list[str]
) -> dict[str, Any]:
    """Every completion as a short row: its point and its prompt by their numbers."""
    places = {(names[one["f"]], one["point"]): i for i, one in enumerate(points)}
    prompts = {_value(id): i for i, id in enumerate(table["id"].drop_duplicates())}
    kept = [name for name in scores if name in table.columns]
    rows = []
    for row in table.sort_values(["formula", "point", "sample"], kind="stable").to_dict("records"):
        place = places.get((row["formula"], _value(row["point"])))
        if place is not None:
            rows.append([
                place, prompts[_value(row["id"])], _value(row["sample"]), _value(row["text"]),
                _value(row["tokens"]), _value(row["finish_reason"]),
                *(_short(row[name]) for name in kept),
            ])  # fmt: skip
    return {"scores": kept, "rows": rows}


def _said(meta: Mapping[str, Any]) -> list[list[str]]:
    """The facts of a run, in words."""
    found = []
    for key, value in meta.items():
        if key in ("plan", "schema") or value is None:
            continue
        if key == "git" and isinstance(value, Mapping):
            value = f"{value.get('revision')}{', changed since' if value.get('dirty') else ''}"
        elif isinstance(value, Mapping):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if v is not None)
        elif isinstance(value, (list, tuple)):
            value = " ".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:,.1f}"
        found.append([key, str(value)])
    if meta.get("seconds") and meta.get("tokens"):
        found.append(["tokens per second", f"{meta['tokens'] / meta['seconds']:,.1f}"])
    return found


def _text_of(prompt: Any) -> str:
    """A prompt as one text: chat messages one after the other, ids as they are."""
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping):
        return "\n".join(f"{one.get('role')}: {one.get('content')}" for one in prompt)
    return str(prompt)


def _value(value: Any) -> Any:
    """A cell as plain data; None for what is missing."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or value != value else value


def _short(value: Any) -> Any:
    value = _value(value)
    return float(f"{value:.5g}") if isinstance(value, float) else value
