"""The rows of a sweep: (formula, point, prompt, sample), each with a seed of its own. No models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..api import declared, plan_of
from ..formula import Plan
from ..inputs.grid import Point, points_of
from ..inputs.linear import Sum
from ..inputs.prompts import Item
from ..inputs.runfile import TEMPERATURE, RunFile, RunFileError

Key = tuple[str, int, Any, int]


@dataclass(frozen=True)
class Setting:
    """One formula of a sweep and the points at which it differs.

    Attributes:
        name: the formula's.
        text: the formula.
        plan: its plan, over the declared and the merged models.
        points: what each of its points says of the names that it depends on.
        of: per point of the whole sweep, the number of the formula's own.
        merges: the merged models that it reads.
    """

    name: str
    text: str
    plan: Plan
    points: tuple[Point, ...]
    of: tuple[int, ...]
    merges: Mapping[str, Sum]


@dataclass(frozen=True)
class Row:
    """One completion that a sweep asks for."""

    setting: Setting
    point: int
    item: Item
    sample: int
    seed: int

    @property
    def key(self) -> Key:
        """What tells it from all others, in every file of the run."""
        return (self.setting.name, self.point, self.item.id, self.sample)

    @property
    def params(self) -> Point:
        """The values of its point."""
        return self.setting.points[self.point]


def key_of(record: Mapping[str, Any]) -> Key:
    """The key of a line."""
    return (record["formula"], record["point"], record["id"], record["sample"])


def order_of(key: Key) -> tuple[Any, ...]:
    """The order of rows in results: ids are numbers, then words."""
    name, point, item, sample = key
    return (name, point, isinstance(item, str), item, sample)


def sums_of(run: RunFile) -> dict[str, Sum]:
    """The run's merged models, checked.

    Raises:
        RunFileError: a merge of anything but adapters on one declared model.
    """
    found: dict[str, Sum] = {}
    for name, text in run.merge.items():
        try:
            found[name] = Sum(text, run.models, run.params)
        except ValueError as error:
            raise RunFileError(f"merge.{name}: {error}") from None
        specs = [run.models[part] for part in found[name].names]
        if any(spec.adapter is None for spec in specs) or len({spec.on for spec in specs}) != 1:
            raise RunFileError(f"merge.{name}: only adapters on one model are merged")
    return found


def settings_of(run: RunFile) -> list[Setting]:
    """Every formula of the run with its own points.

    A formula that does not depend on a swept name is decoded once for all of its values.

    Raises:
        FormulaError: anything wrong with a formula; GridError, RunFileError: with the sweep.
    """
    sums = sums_of(run)
    every: list[Point] = points_of(run.sweep) if run.sweep else [{}]
    found = []
    for name, text in run.named.items():
        specs = {**declared(run.models), **{merged: _merged(run, s) for merged, s in sums.items()}}
        plan = plan_of(text, specs, run.params, run.prompts)
        merges = {merged: sums[merged] for merged in plan.models if merged in sums}
        known = plan.params.union({TEMPERATURE}, *(part.params for part in merges.values()))
        own = [{k: v for k, v in point.items() if k in known} for point in every]
        for point in own:
            plan.values({**run.params, **_params(point)})
        points = [point for i, point in enumerate(own) if point not in own[:i]]
        of = tuple(points.index(point) for point in own)
        found.append(Setting(name, text, plan, tuple(points), of, merges))
    return found


def _merged(run: RunFile, sum_: Sum) -> Any:
    """The spec of a merged adapter, before there is one: any of its parts stands for it."""
    return run.models[sum_.names[0]]


def _params(point: Point) -> Point:
    return {name: value for name, value in point.items() if name != TEMPERATURE}


def rows_of(run: RunFile, setting: Setting, items: Sequence[Item]) -> list[Row]:
    """A formula's rows: those of one prompt next to each other, so that it is read once."""
    samples, seed = run.generate.num_return_sequences, run.generate.seed
    return [
        Row(setting, point, item, sample, seed_of(seed, setting.name, params, item.id, sample))
        for item in items
        for point, params in enumerate(setting.points)
        for sample in range(samples)
    ]


def seed_of(seed: int, formula: str, params: Point, item: int | str, sample: int) -> int:
    """A row's seed: what it is, and nothing that ran before, decides it. Below 2**48."""
    said = json.dumps([seed, formula, sorted(params.items()), item, sample])
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=6).digest(), "big")


def share_of(rows: Iterable[Row], rank: int, ranks: int) -> list[Row]:
    """The rows of one process of several: whole prompts, dealt out in turn."""
    listed = list(rows)
    prompts = {item: i for i, item in enumerate(dict.fromkeys(row.item.id for row in listed))}
    return [row for row in listed if prompts[row.item.id] % ranks == rank]
