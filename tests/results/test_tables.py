"""Tables of points, and gaps between formulas, against plain computations."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from sweeps import content, lines, run_of

from descant import report
from descant.inputs.runfile import RunFile, RunFileError, validated
from descant.inputs.sections import FREE
from descant.results.folder import COMPLETIONS, RESOLVED, SCORES, Journal
from descant.results.frames import load, write
from descant.runs.resume import prepare
from descant.scoring.intervals import share
from descant.scoring.words import word_measures
from descant.sweep import settings_of, sweep

CHANGES: dict[str, Any] = {
    "formula": None,
    "formulas": {"guided": "base + a*arm_help | rerank(reward_help, k=k)", "low": "base",
                 "high": "base + arm_help"},
    "params": {"a": 0.5, "k": 5},
    "sweep": {"a": [0.5, 1], "k": [5, 10]},
    "score": {"help": "reward_help", "gap": {"recovered": "help", "between": ["low", "high"]}},
    "front": None,
    "tables": {
        "both": {"rows": "a", "columns": ["k"], "values": ["help", "length"],
                 "formulas": "guided"},
        "methods": {"rows": "formula", "values": ["help", "gap", "tokens"],
                    "at": {"a": 1, "k": 10}},
        "points": {"rows": ["formula", "k"], "columns": "a", "values": "help"},
    },
}  # fmt: skip


def made_up(run: RunFile, folder: Path, prompts: int = 4) -> dict[tuple[str, int, int], float]:
    """A folder of a sweep that never ran, and the score of each of its answers."""
    draw = random.Random(0)
    prepare(run, folder)
    rows, scores, said = [], [], {}
    for setting in settings_of(run):
        for point, params in enumerate(setting.points):
            for item in range(prompts):
                key = {"formula": setting.name, "point": point, "id": item, "sample": 0}
                said[setting.name, point, item] = draw.gauss(len(setting.name), 1)
                rows.append({"schema": 1, **key, "params": params, "prompt": f"p{item}",
                             "text": "a b", "token_ids": [5] * (item + 1), "finish_reason": "eos",
                             "seed": 0, "elapsed": 0.5})  # fmt: skip
                measures = {**word_measures("a b", item + 1),
                            "help": said[setting.name, point, item]}  # fmt: skip
                scores.append({**key, "scores": measures})
    Journal(folder, COMPLETIONS).add(rows)
    Journal(folder, SCORES).add(scores)
    return said


def mean(said: dict[tuple[str, int, int], float], formula: str, point: int) -> float:
    return sum(said[formula, point, item] for item in range(4)) / 4


def test_a_table_has_the_points_where_they_belong(tmp_path) -> None:
    said = made_up(run_of(tmp_path, **CHANGES), tmp_path / "out")
    results = load(tmp_path / "out")
    files = write(results, tmp_path / "out")
    [text] = [file.read_text() for file in files if file.name == "tables.md"]
    tables = {}
    for part in text.split("## ")[1:]:
        name, head, _, *rows = (line for line in part.splitlines() if line)
        tables[name] = [
            [cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)
        ]
    head, *rows = tables["both"]
    assert head == ["a", "help, k = 5", "help, k = 10", "length, k = 5", "length, k = 10"]
    assert [row[0] for row in rows] == ["0.5", "1"]
    for row, first in zip(rows, (0, 2), strict=True):
        for cell, point in zip(row[1:3], (first, first + 1), strict=True):
            assert cell.startswith(f"{mean(said, 'guided', point):.2f} [")
        assert row[3].startswith("2.50 [")
    head, *rows = tables["methods"]
    assert head == ["formula", "help", "gap", "tokens"]
    assert [row[0] for row in rows] == ["guided", "low", "high"], "as they are declared"
    low, high, ours = mean(said, "low", 0), mean(said, "high", 0), mean(said, "guided", 3)
    assert rows[0][2].startswith(f"{(ours - low) / (high - low):.2f} [")
    assert [row[2] for row in rows[1:]] == ["0.00 [0.00, 0.00]", "1.00 [1.00, 1.00]"]
    assert [row[3] for row in rows] == ["10.00"] * 3
    head, *rows = tables["points"]
    assert head == ["formula", "k", "help, a = -", "help, a = 0.5", "help, a = 1"]
    assert [row[:2] for row in rows] == [["guided", "5"], ["guided", "10"], ["low", "-"],
                                         ["high", "-"]]  # fmt: skip
    assert [bool(cell) for cell in rows[0][2:]] == [False, True, True]
    assert [bool(cell) for cell in rows[2][2:]] == [True, False, False]


def test_a_gap_is_that_of_means_over_the_same_drawn_prompts() -> None:
    draw = np.random.default_rng(3)
    ours, start, end = ({i: [v] for i, v in enumerate(draw.normal(m, 1, 40))} for m in (1, 0, 3))
    found = share(ours, start, end)
    x, a, b = (np.array([one[i][0] for i in range(40)]) for one in (ours, start, end))
    assert found.mean == pytest.approx((x.mean() - a.mean()) / (b.mean() - a.mean()))
    ratios = []
    for _ in range(4000):
        some = draw.integers(40, size=40)
        ratios.append((x[some].mean() - a[some].mean()) / (b[some].mean() - a[some].mean()))
    assert (found.low, found.high) == pytest.approx(np.quantile(ratios, (0.025, 0.975)), abs=0.02)
    assert share(start, start, end).mean == 0 and share(end, start, end).mean == 1
    assert not math.isfinite(share(ours, start, start).mean)
    assert share(ours, start, {"elsewhere": [1.0]}).n == 0


def test_the_report_and_the_points_have_them(tmp_path) -> None:
    made_up(run_of(tmp_path, **CHANGES), tmp_path / "out")
    results = load(tmp_path / "out")
    assert {"gap", "gap_low", "gap_high", "gap_n"} <= {*results.points}
    assert "gap" not in results.table and set(FREE) <= {*results.table}
    data = report.content.content_of(results, "x").data
    assert [one["name"] for one in data["tables"]] == ["both", "methods", "points"]
    cell = data["tables"][1]["rows"][0]["cells"][1]
    row = results.points.set_index(["formula", "point"]).loc[("guided", 3)]
    assert cell == [row["gap"], row["gap_low"], row["gap_high"]]
    assert data["tables"][2]["rows"][2]["labels"] == ("low", None)
    assert pandas.notna(row["gap"]) and results.points["gap_n"].eq(4).all()


def test_a_gap_whose_end_is_not_there_yet(tmp_path) -> None:
    run = run_of(tmp_path, **CHANGES)
    made_up(run, tmp_path / "out")
    file = tmp_path / "out" / f"{COMPLETIONS}.jsonl"
    kept = [line for line in file.read_text().splitlines() if '"high"' not in line]
    file.write_text("\n".join(kept) + "\n")
    found = load(tmp_path / "out")
    assert "gap" not in found.points
    assert report.write(found, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tables": {"t": {"rows": "b", "values": "help"}}},
         "tables.t names b, which is no formula or swept name; known here: a, formula, k"),
        ({"tables": {"t": {"rows": "a", "values": "hlep"}}},
         "tables.t.values names hlep, which is no score; did you mean help?"),
        ({"tables": {"t": {"rows": "a", "values": "help", "formulas": "guide"}}},
         "tables.t.formulas names guide, which is no formula; did you mean guided?"),
        ({"tables": {"t": {"rows": "a", "values": "help", "at": {"a": 1}}}}, "a in two places"),
        ({"tables": {"t": {"rows": "a", "value": "help"}}}, "did you mean values?"),
        ({"score": {"gap": {"recovered": "help", "between": ["low", "high"]}}},
         "score.gap names help, which is no score of answers"),
        ({"score": {"help": "reward_help", "gap": {"recovered": "help"}}}, "between: [a formula,"),
        ({"score": {"help": "reward_help", "gap": {"recovered": "help",
                                                   "between": ["lo", "high"]}}},
         "score.gap.between names lo, which is no formula; did you mean low?"),
    ],
)  # fmt: skip
def test_what_is_said_of_mistakes(tmp_path, change, says) -> None:
    with pytest.raises(RunFileError) as problem:
        validated(content(tmp_path, **{**CHANGES, "tables": None, **change}), "here")
    assert says in str(problem.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tables": {"t": {"rows": "formula", "values": "help", "at": {"a": 1}}}},
         "tables.t: several points of guided are in one cell; name k in rows, columns or at"),
        ({"score": {"help": "reward_help", "gap": {"recovered": "help",
                                                   "between": ["low", "guided"]}}},
         "score.gap.between: guided has 4 points; name one, as guided:0"),
        ({"score": {"help": "reward_help", "gap": {"recovered": "help",
                                                   "between": ["low", "guided:4"]}}},
         "guided has no point '4'; its points are 0 to 3"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_said_before_anything_is_decoded(tmp_path, change, says) -> None:
    run = run_of(tmp_path, **{**CHANGES, "tables": None, **change})
    with pytest.raises(RunFileError) as problem:
        sweep(run, tmp_path / "out")
    assert says in str(problem.value)
    assert not (tmp_path / "out").exists()


def test_tables_and_gaps_may_be_added_to_a_run_that_is_finished(tmp_path) -> None:
    changes = {**CHANGES, "sweep": {"a": [1], "k": [5]}}
    changes["generate"] = {"max_new_tokens": 4, "temperature": 1.0}
    plain = {**changes, "tables": None, "score": {"help": "reward_help"}}
    sweep(run_of(tmp_path, **plain), tmp_path / "out")
    before = lines(tmp_path / "out"), lines(tmp_path / "out", "scores")
    file = tmp_path / "out" / RESOLVED  # as it was written before there were tables
    old = json.loads(json.dumps(validated(content(tmp_path, **plain), "here").model_dump(
        mode="json", exclude={"output", "tables"})))  # fmt: skip
    for score in old["score"].values():
        del score["recovered"], score["between"]
    file.write_text(json.dumps(old))
    changes["tables"] = {"methods": {"rows": "formula", "values": ["help", "gap"]}}
    sweep(run_of(tmp_path, **changes), tmp_path / "out")
    assert (lines(tmp_path / "out"), lines(tmp_path / "out", "scores")) == before
    found = load(tmp_path / "out")
    assert found.points.set_index("formula").loc["high", "gap"] == pytest.approx(1)
