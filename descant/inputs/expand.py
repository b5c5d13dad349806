"""The rows of a run: (formula, point, prompt, sample), each with its seed. No models are loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..api import declared, plan_of
from ..formula import Plan
from ..formula.algebra.components import why_no_components
from ..formula.algebra.drafting import AUTO, PROMPT, why_no_draft
from .grid import Point
from .prompts import Item
from .runfile import TEMPERATURE, RunFile

if TYPE_CHECKING:
    from ..runtime import Completion

KEY = ("formula", "point", "id", "sample")  # identifies a line of completions and of scores
Key = tuple[str, int, Any, int]


@dataclass(frozen=True)
class Setting:
    """One formula of a sweep and its points."""

    name: str
    text: str
    plan: Plan
    points: tuple[Point, ...]  # the values of the swept names that it depends on, per point
    point_index: tuple[int, ...]  # per point of the whole sweep, the index of the formula's own


@dataclass(frozen=True)
class Row:
    """One completion of a run."""

    formula: str
    point: int  # its number among the formula's points
    params: Point
    item: Item
    sample: int
    seed: int  # of its noise; of ``descant run``, with the number of the sample

    @property
    def key(self) -> Key:
        """What identifies the row in every file of the run."""
        return (self.formula, self.point, self.item.id, self.sample)

    def record(self, completion: Completion, run: RunFile) -> dict[str, Any]:
        """Its line of ``completions.jsonl``."""
        record = {
            "schema": 1,
            "formula": self.formula,
            "point": self.point,
            "params": self.params,
            "id": self.item.id,
            "sample": self.sample,
            "prompt": self.item.prompt,
            "text": completion.text,
            "token_ids": completion.token_ids,
            "finish_reason": completion.finish_reason,
            "seed": self.seed,
            "elapsed": round(completion.seconds, 6),
        }
        if completion.logprobs is not None:
            if run.has_kl and not is_greedy(run, self.params):
                record["logprob"] = round(sum(completion.logprobs), 3)
            if run.generate.logprobs:
                record["logprobs"] = [round(value, 6) for value in completion.logprobs]
        if completion.log_weight is not None and completion.log_normalizer is not None:
            record["log_weight"] = round(completion.log_weight, 6)
            record["log_normalizer"] = round(completion.log_normalizer, 6)
        if completion.top_logprobs is not None:
            record["top_logprobs"] = [
                [[token, round(value, 6)] for token, value in best.items()]
                for best in completion.top_logprobs
            ]
        return record


def is_greedy(run: RunFile, params: Mapping[str, float]) -> bool:
    """Whether a row takes the best token, so that its answer was drawn from nothing."""
    generate = run.generate
    heat = params.get(TEMPERATURE, generate.temperature)
    if heat is None or generate.do_sample is False:
        return not generate.do_sample
    return heat == 0


def key_of(record: Mapping[str, Any]) -> Key:
    """The key of a line."""
    return (record["formula"], record["point"], record["id"], record["sample"])


def settings_of(run: RunFile) -> list[Setting]:
    """Every formula of the run with its own points.

    A formula that does not depend on a swept name is decoded once for all of its values.

    Raises:
        FormulaError: a formula is wrong; GridError, RunFileError: the sweep is.
    """
    specs = declared(run.models)
    drafting_models(run, specs)
    settings = []
    for name, text in run.named.items():
        plan = plan_of(text, specs, run.params, *run.texts)
        if run.generate.sample_components and (error := why_no_components(plan)) is not None:
            raise error
        known = plan.params | {TEMPERATURE}
        points = [{k: v for k, v in point.items() if k in known} for point in run.points]
        for point in points:
            plan.values({**run.params, **without_temperature(point)})
        own = [point for i, point in enumerate(points) if point not in points[:i]]
        index = tuple(own.index(point) for point in points)
        settings.append(Setting(name, text, plan, tuple(own), index))
    return settings


def drafting_models(run: RunFile, specs: Mapping[str, Any]) -> set[str]:
    """The models that draft, of those declared.

    Raises:
        FormulaError: the draft is no formula over them.
    """
    draft = run.generate.draft
    if draft is None or draft in (PROMPT, AUTO):
        return set()
    plan = plan_of(draft, specs, run.params, *run.texts)
    if (error := why_no_draft(plan)) is not None:
        raise error
    return set(plan.declared)


def without_temperature(point: Point) -> Point:
    """The point's parameters."""
    return {name: value for name, value in point.items() if name != TEMPERATURE}


def rows_of(run: RunFile, setting: Setting, items: Sequence[Item]) -> list[Row]:
    """A formula's rows; the rows of one prompt are adjacent, so that it is prefilled once."""
    name, seed = setting.name, run.generate.seed
    return [
        Row(name, point, params, item, sample, seed_of(seed, name, params, item.id, sample))
        for item in items
        for point, params in enumerate(setting.points)
        for sample in range(run.generate.num_return_sequences)
    ]


def seed_of(seed: int, formula: str, params: Point, item: int | str, sample: int) -> int:
    """A row's seed, below 2**48: a function of the run's seed and of what the row is."""
    content = json.dumps([seed, formula, sorted(params.items()), item, sample])
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=6).digest(), "big")


def rows_of_rank(rows: Iterable[Row], rank: int, ranks: int) -> list[Row]:
    """The rows of one of several processes: whole prompts, in turn."""
    listed = list(rows)
    prompts = {item: i for i, item in enumerate(dict.fromkeys(row.item.id for row in listed))}
    return [row for row in listed if prompts[row.item.id] % ranks == rank]
