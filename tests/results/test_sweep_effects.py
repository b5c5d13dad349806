"""Effect sizes of a sweep: recomputed from its lines, and against the point that the run names."""

from __future__ import annotations

import json
import statistics

import pandas
import pytest
from command_line import command
from sweeps import lines, run_of

from descant.compare.recorded import by_scores
from descant.inputs.runfile import RunFileError
from descant.results import load
from descant.results.frames import write
from descant.sweep import sweep
from descant.sweep.shown import effects_shown

FORMULAS = {"base": "base", "arms": "base + (1-a)*arm_help + a*arm_harm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("effects")
    sweep(run_of(tmp_path, formula=None, formulas=FORMULAS), tmp_path / "out")
    return tmp_path / "out"


def means(folder, score, formula, point):
    values: dict[int, list[float]] = {}
    for line in lines(folder, "scores"):
        if (line["formula"], line["point"]) == (formula, point) and score in line["scores"]:
            values.setdefault(line["id"], []).append(line["scores"][score])
    return {prompt: statistics.fmean(own) for prompt, own in values.items()}


def test_every_point_and_score_is_set_against_the_base(folder) -> None:
    results = load(folder)
    found = results.effects
    assert [*found["score"]] == ["help", "harm", "length"] * 3
    assert set(found["against"]) == {"base:0"} and set(found["formula"]) == {"arms"}
    for _, row in found.iterrows():
        ours = means(folder, row["score"], "arms", row["point"])
        theirs = means(folder, row["score"], "base", 0)
        assert row["difference"] == pytest.approx(
            statistics.fmean(ours[i] - theirs[i] for i in theirs), abs=1e-9
        )
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]
        assert row["prompts"] == 4
    for _, own in found.groupby("score"):  # a family for each score
        first = own.sort_values("p").iloc[0]
        assert first["p_holm"] == pytest.approx(min(1, 3 * first["p"]))
    write(results, folder)
    assert len(pandas.read_csv(folder / "effects.csv")) == len(found)
    assert effects_shown(results).row_count == len(found)


def test_the_reference_may_be_named_and_changed_later(folder, tmp_path) -> None:
    run = run_of(folder.parent, formula=None, formulas=FORMULAS, effects={"against": "arms:2"})
    sweep(run, folder)  # decodes nothing anew, and is no other run
    found = load(folder).effects
    assert set(found["against"]) == {"arms:2"}
    assert {*zip(found["formula"], found["point"], strict=True)} == {
        ("base", 0), ("arms", 0), ("arms", 1)
    }  # fmt: skip
    for against, problem in (
        ("arms", "effects.against: arms has 3 points; name one, as arms:0"),
        ("arm", "effects.against names arm, which is no formula; did you mean arms"),
        ("base:3", "effects.against: base has no point '3'; its points are 0 to 0"),
    ):
        wrong = run.model_copy(
            update={"effects": run.effects.model_copy(update={"against": against})}
        )
        with pytest.raises(RunFileError, match=problem):
            sweep(wrong, tmp_path / "new")


def test_compare_by_what_the_folders_hold(folder, tmp_path) -> None:
    """All points of a run against one of it, as the sweep has them; then another run's."""
    sweep(run_of(folder.parent, formula=None, formulas=FORMULAS), folder)
    expected = load(folder).effects.set_index(["formula", "point", "score"])
    file = tmp_path / "effects.json"
    done = command("compare", f"{folder}#arms", f"{folder}#base", "--output", file)
    assert done.returncode == 0, done.stderr
    assert "p (Holm)" in done.stdout
    rows = json.loads(file.read_text())
    assert len(rows) == len(expected) == 9
    for row in rows:
        point = int(row["ours"].rpartition(":")[2])
        same = expected.loc["arms", point, row["score"]]
        for figure in ("difference", "difference_low", "win_rate_high", "p", "p_holm"):
            assert row[figure] == pytest.approx(same[figure], abs=1e-9)
    sweep(run_of(tmp_path, sweep={"a": [0.5]}), tmp_path / "other")
    [*rows] = by_scores(f"{tmp_path / 'other'}", f"{folder}#arms:1")
    assert [row["score"] for row in rows] == ["help", "harm", "length"]
    assert all(row["p"] == row["p_holm"] for row in rows)  # one point: nothing to correct
