"""A sweep's results as their schema says, made up from a seed: for tests of what shows them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas

from descant.scoring.effects import effects

FORMULAS = {
    "arms": "base + (1-a)*arm_help + a*arm_harm",
    "soup": "soup + a*arm_harm",
    "rerank": "base | rerank((1-a)*reward_help + a*reward_harm, k=10, w=1.5)",
}
TWO = ("help", "harm")
WORDS = (
    "water", "the", "roses", "early", "then", "wait", "until", "soil", "is", "dry", "and", "ask",
)  # fmt: skip
HOSTILE = "</script><script>window.broken = true</script><img src=x onerror='window.broken=1'>"


@dataclass(frozen=True)
class Run:
    """The part of a run file that a report looks at."""

    formula: str
    formulas: dict[str, str]
    tables: dict[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, str]:
        """Every formula by its name."""
        return self.formulas


@dataclass(frozen=True)
class Results:
    """As ``descant.results.load`` gives them."""

    run: Run
    meta: dict[str, Any]
    table: pandas.DataFrame
    points: pandas.DataFrame
    front: dict[str, Any]
    effects: pandas.DataFrame


def made(
    formulas: int = 3, points: int = 11, prompts: int = 16, objectives: Sequence[str] = TWO,
    hostile: bool = False, scored: bool = True,
) -> Results:  # fmt: skip
    """Results of a sweep that never ran.

    Args:
        formulas, points, prompts: how many.
        objectives: of the front; with a minus where the smaller is the better.
        hostile: whether prompts and completions hold markup.
        scored: whether there are scores at all.
    """
    draw, names = random.Random(0), list(FORMULAS)[:formulas]
    goals = [goal.removeprefix("-") for goal in objectives] if scored else []
    table = pandas.DataFrame([
        _row(draw, name, f, point, point / max(1, points - 1), id, goals)
        for f, name in enumerate(names) for point in range(points) for id in range(prompts)
    ])  # fmt: skip
    if hostile:
        table["text"] = HOSTILE + table["text"]
        table["prompt"] = HOSTILE + table["prompt"]
    said = _points(table, goals)
    fronts = {name: _front(said[said["formula"] == name], objectives) for name in names}
    front = {"objectives": list(objectives) if scored else [], "formulas": fronts if scored else {}}
    front["front"] = [[names[0], n] for n in fronts[names[0]].get("front", ())]
    texts = {name: FORMULAS[name] + (f' + base@"{HOSTILE}"' if hostile else "") for name in names}
    return Results(Run("", texts), _meta(table, texts), table, said, front, _effects(table, goals))


def _meta(table: pandas.DataFrame, texts: dict[str, str]) -> dict[str, Any]:
    return {
        "schema": 1, "descant": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0",
        "python": "3.11.9", "device": "cpu", "dtype": "float32",
        "git": {"revision": "4e9d397", "dirty": False}, "started": "2026-01-05T10:12:44+00:00",
        "command": "descant sweep run.yaml", "seed": 0, "finished": "2026-01-05T10:14:02+00:00",
        "plan": {name: f"formula     {text}\nparameters  a = 0.5" for name, text in texts.items()},
        "seconds": 71.3, "tokens": int(table["tokens"].sum()),
    }  # fmt: skip


def _row(
    draw: random.Random, name: str, f: int, point: int, a: float, id: int, goals: Sequence[str]
) -> dict[str, Any]:
    text = " ".join(draw.choices(WORDS, k=draw.randint(12, 60))).capitalize() + "."
    means = (1.2 * (1 - a) ** 0.7 - 0.25 * f + 0.1, 1.3 * a**0.6 - 0.2 * f, 0.5 - (a - 0.5) ** 2)
    scores = {goal: draw.gauss(mean, 0.45) for goal, mean in zip(goals, means, strict=False)}
    if goals:
        scores["distinct_1"] = draw.uniform(0.5, 1)
    return {
        "formula": name, "point": point, "param_a": a, "id": id, "sample": 0,
        "prompt": f"How do I water plant number {id}, and at which time of the day?",
        "text": text, "tokens": len(text.split()) + 3, "finish_reason": "eos",
        "elapsed": 0.4 + draw.random(), **scores,
    }  # fmt: skip


def _points(table: pandas.DataFrame, goals: Sequence[str]) -> pandas.DataFrame:
    rows = []
    for (name, point), part in table.groupby(["formula", "point"], sort=False):
        row: dict[str, Any] = {"formula": name, "point": point, "param_a": part["param_a"].iloc[0]}
        for score in [*goals, *["distinct_1"] * bool(goals)]:
            mean, half = part[score].mean(), 1.96 * part[score].std() / len(part) ** 0.5
            row |= {score: mean, f"{score}_low": mean - half, f"{score}_high": mean + half}
            row[f"{score}_n"] = len(part)
        rows.append({**row, "n": len(part), "tokens_per_second": 48.2, "seconds": 0.91})
    return pandas.DataFrame(rows)


def _effects(table: pandas.DataFrame, goals: Sequence[str]) -> pandas.DataFrame:
    """Every point against the first of the first formula."""
    rows = []
    for goal in goals:
        groups = table.groupby(["formula", "point"], sort=False)
        values = {key: dict(own.groupby("id")[goal].agg(list)) for key, own in groups}
        against = next(iter(values))
        for (formula, point), effect in effects(values, values.pop(against)).items():
            row = {"formula": formula, "point": point, "score": goal}
            rows.append({**row, "against": "{}:{}".format(*against), **effect.figures})
    return pandas.DataFrame(rows)


def _front(points: pandas.DataFrame, objectives: Sequence[str]) -> dict[str, Any]:
    """The points that no other is better than in everything."""
    signs = [-1 if goal.startswith("-") else 1 for goal in objectives]
    columns = [goal.removeprefix("-") for goal in objectives]
    if not set(columns) <= set(points):
        return {}
    means = [
        [sign * value for sign, value in zip(signs, row, strict=True)]
        for row in points[columns].itertuples(index=False)
    ]

    def beaten(one: list[float]) -> bool:
        return any(
            other != one and all(b >= a for a, b in zip(one, other, strict=True)) for other in means
        )

    front = [int(p) for p, one in zip(points["point"], means, strict=True) if not beaten(one)]
    return {
        "points": sorted(map(int, points["point"])), "front": front,
        "hypervolume": 1.234, "mean_inner_product": 0.871, "reference": [-1.0] * len(signs),
    }  # fmt: skip


def inspected() -> Any:
    """A completion that was explained, over tables."""
    import descant

    models = {
        name: descant.TableModel.random(30, seed) for seed, name in enumerate(("base", "arm"))
    }
    models["rm"] = descant.RuleReward.random(30, 5)
    decoder = descant.compile("base + 0.5*arm | rerank(rm, k=8, w=1) | top_p(0.9)", models)
    return decoder.inspect([3, 1], max_new_tokens=8, temperature=1.0, seed=1)


def with_inspection(folder: Path) -> Path:
    """A folder with an ``inspect.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inspect.json").write_text(json.dumps(inspected().as_dict()), encoding="utf-8")
    return folder
