"""Tables of papers: small versions have their shape, and large ones run with tiny models."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from descant.inputs.runfile import RunFile, read_run_file
from descant.results import load
from descant.results.tables import markdown, tables_of
from descant.sweep import settings_of, sweep
from examples.demo_models.corpus import held_out

EXAMPLES = Path(__file__).parents[2] / "examples"
PAPERS = EXAMPLES / "papers"
LARGE = sorted(PAPERS.glob("*-*.yaml"))


def swept(file: Path, out: Path, *overrides: str) -> Any:
    """The results of a small version of a run file."""
    sweep(read_run_file(file, overrides), out)
    return load(out)


def table_of(results: Any, name: str) -> dict[tuple[Any, ...], list[float]]:
    """A table's means, by the labels of its rows."""
    [pivot] = [one for one in tables_of(results.run, results.points) if one.name == name]
    return {
        place: [math.nan if c is None else c.mean for c in cells] for place, cells in pivot.rows
    }


def test_the_prompts_are_held_out() -> None:
    lines = [json.loads(line) for line in (PAPERS / "prompts.jsonl").read_text().splitlines()]
    assert len({line["prompt"] for line in lines}) == len(lines) == 64
    assert all(held_out(line["prompt"]) for line in lines)


def test_reward_rises_with_the_weight_and_the_candidates(tmp_path) -> None:
    found = swept(
        PAPERS / "args.yaml", tmp_path, "data.limit=6", "generate.max_new_tokens=40",
        "sweep.w=[0, 1.5]", "sweep.k=[5, 20]", "score={reward: {reward: reward}}",
        "tables.greedy.values=reward", "tables.stochastic.values=reward",
        "tables.greedy.at.k=20", "tables.stochastic.at.k=20",
    )  # fmt: skip
    rows = table_of(found, "greedy")
    assert rows[("ARGS",)][0] > rows[("base",)][0] + 2
    rows = table_of(found, "stochastic")
    assert [*rows] == [("base",), ("top-k",), ("nucleus",), ("ARGS",)]
    assert rows[("ARGS",)][0] > max(mean for (name,), (mean,) in rows.items() if name != "ARGS") + 2
    for name, at in (("ARGS-greedy over w and k", 0), ("ARGS-stochastic over w and k", 1)):
        rows = table_of(found, name)
        assert [*rows] == [(0,), (1.5,)]
        (none, none_wide, *_), (some, wide, *diversity) = rows.values()
        assert wide > some > none or at, "and more candidates are better, as they decode"
        assert wide > none_wide + 2
        assert all(0 < value <= 1 for value in diversity)
    greedy = table_of(found, "ARGS-greedy over w and k")[(0,)]
    assert greedy[0] == greedy[1] == table_of(found, "greedy")[("base",)][0], "w = 0 is the base"


def test_the_gap_that_a_weak_model_closes(tmp_path) -> None:
    found = swept(
        PAPERS / "weak_to_strong.yaml", tmp_path, "data.limit=12", "sweep.b=[0.25, 1]",
        "generate.num_return_sequences=2",
    )  # fmt: skip
    ends = table_of(found, "ends")
    (weak, broken), (strong, _), (ceiling, fluent) = ends.values()
    assert strong < min(weak, ceiling) - 2 and fluent < broken
    points = found.points.set_index("formula")
    for end, said in (("strong", 0), ("ceiling", 1)):
        row = points.loc[end]
        assert [row[f"reward gap{part}"] for part in ("", "_low", "_high")] == pytest.approx(
            [said] * 3
        )
    rows = table_of(found, "recovered")
    assert [*rows] == [("proxy", 0.25), ("proxy", 1), ("arm", 0.25), ("arm", 1)]
    for reward, gap, perplexity, fluency in rows.values():
        assert gap == pytest.approx((reward - strong) / (ceiling - strong))
        assert fluency == pytest.approx((perplexity - broken) / (fluent - broken))
    for way in ("proxy", "arm"):
        assert rows[(way, 1)][1] > max(0.5, rows[(way, 0.25)][1]), "more than half of the gap"


def test_the_front_of_two_arms_goes_further_than_any_other(tmp_path) -> None:
    found = swept(
        EXAMPLES / "sweep.yaml", tmp_path, "data.limit=8", "sweep.a.step=0.5",
        "score={help: {reward: reward_help}, harm: {reward: reward_harm}}",
    )  # fmt: skip
    fronts = found.front["formulas"]
    assert set(fronts) == {"arms", "help_alone", "harm_alone", "soup", "rerank", "base"}
    assert all(one["mean_inner_product"] is not None for one in fronts.values())
    volumes = {name: one["hypervolume"] for name, one in fronts.items()}
    assert volumes["arms"] > max(volumes[name] for name in ("help_alone", "harm_alone", "base"))
    arms = found.points[found.points["formula"] == "arms"]
    assert arms["help"].iloc[0] > arms["help"].iloc[-1]
    assert arms["harm"].iloc[0] < arms["harm"].iloc[-1]


def tiny(run: RunFile, zoo: Any, tmp_path: Path) -> RunFile:
    """The same run over tiny checkpoints, a few prompts and tokens, and the ends of its sweep."""
    rewards = {name for name in run.models if name in ("reward", "cost")}
    bases, adapters = iter(("base", "arm", "arm2", "strong", "base")), iter(("lora4", "lora8") * 2)
    models = {
        name: spec.model_copy(
            update={"adapter": zoo.path(next(adapters))} if spec.adapter
            else {"path": zoo.path("rm" if name in rewards else next(bases)), "device_map": None}
        ) for name, spec in run.models.items()
    }  # fmt: skip
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"a stone {i}"}) + "\n" for i in range(2)))
    assert isinstance(run.sweep, dict)
    ends = {name: said if isinstance(said, list) else [0, 1] for name, said in run.sweep.items()}
    score = {name: one for name, one in (run.score or {}).items() if not one.coherence}
    tables = {
        name: table.model_copy(update={"values": [v for v in table.values if v != "coherence"]})
        for name, table in run.tables.items()
    }
    changes = {
        "generate": run.generate.model_copy(update={"max_new_tokens": 4}), "models": models,
        "data": run.data.model_copy(update={"path": str(data), "name": None, "field": "prompt"}),
        "sweep": ends, "score": score, "tables": tables, "dtype": "float32",
    }  # fmt: skip
    return run.model_copy(update=changes)


@pytest.mark.parametrize("file", LARGE, ids=lambda file: file.stem)
def test_a_large_one_plans_and_runs_with_tiny_models(file, zoo, tmp_path) -> None:
    run = read_run_file(file)
    assert {name for setting in settings_of(run) for name in setting.plan.models} <= {
        *run.models, *run.merge}  # fmt: skip
    small = tiny(run, zoo, tmp_path)
    sweep(small, tmp_path / "out")
    found = load(tmp_path / "out")
    assert set(found.points["formula"]) == set(run.named)
    pivots = tables_of(found.run, found.points)
    assert [one.name for one in pivots] == [*run.tables]
    for pivot in pivots:
        assert all(cell is not None for place, cells in pivot.rows for cell in cells[:1])
    if run.objectives:
        assert set(found.front["formulas"]) == set(run.named)


def test_a_score_model_becomes_a_classifier(zoo, tmp_path) -> None:
    from safetensors.torch import load_file

    import descant

    text = (PAPERS / "README.md").read_text(encoding="utf-8")
    named: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], named)
    weights = load_file(Path(zoo.path("rm")) / "model.safetensors")
    weights["score_head.weight"] = weights.pop("score.weight")
    weights["score_head.bias"] = weights["score_head.weight"].new_zeros(1)
    named["convert"](weights, zoo.path("rm"), tmp_path / "made")
    asked = (["a small stone"], [" in the river"])
    made, own = (descant.score(path, *asked) for path in (str(tmp_path / "made"), zoo.path("rm")))
    assert made == pytest.approx(own)


def test_the_readme_has_every_table_that_the_files_make() -> None:
    text = (PAPERS / "README.md").read_text(encoding="utf-8")
    for name in ("args.yaml", "weak_to_strong.yaml"):
        for title in read_run_file(PAPERS / name).tables:
            assert re.search(rf"^#+ {re.escape(title)}$", text, re.M), title
    assert markdown([]) == ""
