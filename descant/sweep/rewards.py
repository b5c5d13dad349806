"""Scores of a sweep that are reward expressions: each reward model reads an answer once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ..formula.reward import RewardExpression
from ..grammar import FormulaError
from ..inputs.expand import Key, key_of, without_temperature
from ..inputs.runfile import RunFile
from ..models import ModelSpec
from ..results.folder import Record
from ..scoring.expressions import models_of, reward_expression, value_of
from ..scoring.rewards import RewardScorer
from .lines import chunks, line

if TYPE_CHECKING:
    from ..runs.models import Models


def reward_expressions(run: RunFile, specs: Mapping[str, ModelSpec]) -> dict[str, RewardExpression]:
    """The run's scores that are rewards, by name; one model is an expression too.

    Raises:
        FormulaError: one is wrong, marked at the place; it names the score.
    """
    expressions = {}
    for name, score in (run.score or {}).items():
        if score.reward is not None:
            with_name = f"score.{name}: "
            try:
                expressions[name] = reward_expression(score.reward, specs, run.params)
            except FormulaError as error:
                problem = with_name + error.problem
                marked = FormulaError(problem, error.text, error.span, error.cure, error.more)
                raise marked from None
    return expressions


def measure_rewards(
    run: RunFile, models: Models, unscored: Callable[[str], Sequence[Record]], shown: bool
) -> Iterator[list[Record]]:
    """Score completions by reward expressions, model by model; ``unscored`` by a score's name.

    Yields:
        Lines, of each score as soon as its last model has read the answer.

    Raises:
        RunFileError: a score that is not finite. ModelError: a text that a model cannot read.
    """
    expressions = reward_expressions(run, models.specs)
    missing = {name: {key_of(each): each for each in unscored(name)} for name in expressions}
    wanted = {name: models_of(each) for name, each in expressions.items() if missing[name]}
    rewards: dict[Key, dict[str, float]] = {}  # of each answer, by the models that have read it

    def lines(names: Sequence[str], records: Sequence[Record]) -> Iterator[Record]:
        """A line per answer that has scores now."""
        for record in records:
            key = key_of(record)
            params = {**run.params, **without_temperature(record["params"])}
            length = len(record["token_ids"])
            values = {
                name: value_of(expressions[name], rewards[key], length, params)
                for name in names
                if key in missing[name] and rewards[key].keys() >= {*wanted[name]}
            }
            if values:
                yield line(record, values)

    for model in dict.fromkeys(model for every in wanted.values() for model in every):
        names = [name for name, every in wanted.items() if model in every]
        records = {key: record for name in names for key, record in missing[name].items()}
        options = model, models.specs, models.dtype, models.device, models.loaded
        scorer = RewardScorer(*options, raw_text=models.raw_text)
        for chunk in chunks(model, [*records.values()], shown):
            texts = [record["text"] or "" for record in chunk]
            values = scorer.scores([record["prompt"] for record in chunk], texts)
            for record, value in zip(chunk, values, strict=True):
                rewards.setdefault(key_of(record), {})[model] = value
            yield [*lines(names, chunk)]
        scorer.close()
