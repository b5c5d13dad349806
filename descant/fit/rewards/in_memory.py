"""A search in Python: a decoder's completions, scored by models that it was compiled with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentError, quoted
from ...formula import Plan
from ...formula.reward import RewardExpression
from ...inputs.expand import seed_of, without_temperature
from ...inputs.grid import Point
from ...inputs.runfile import TEMPERATURE
from ...inputs.sections import FORMULA
from ...models import ModelError, ModelSpec, make_spec, resolve
from ...models.functions import FunctionReward
from ...runtime import Completion, Decoder, DraftBinder
from ...scoring.declared import reward_model
from ...scoring.expressions import check_models, models_of, reward_expression, value_of
from ...scoring.rewards import RewardScorer
from .options import Options
from .outcome import Outcome
from .search import searched
from .trials import Ids, Measured, Record

_OWN = {"params", "seed", "num_return_sequences", "progress", "logprobs", "return_particles"}


@dataclass(frozen=True)
class Compiled:
    """A decoder with what it was compiled from: its plan, its parameters' values, its models."""

    decoder: Decoder
    plan: Plan
    params: Mapping[str, float]
    models: DraftBinder


def fit_decoder(
    compiled: Compiled,
    prompts: Sequence[Any],
    reward: Any,
    options: Options,
    *,
    samples: int = 1,
    reference: Mapping[str, float] | None = None,
    progress: bool | None = None,
    **generate: Any,
) -> Outcome:
    """Maximise rewards of a decoder's completions; the decoder is as it was.

    Args:
        prompts: text, chat messages or token ids each.
        reward: a declared reward model's name, a reward expression over several, or a function
            (``descant.reward``); a list of them, or by names, with a minus where less is better.
        samples: completions of each prompt at each point.
        reference: of hypervolume, by the names of rewards.
        generate: arguments of ``generate``; the temperature is the start of its own search.

    Raises:
        ArgumentError: arguments that do not fit together, or bounds; FormulaError, ModelError: as
            ``generate`` and ``descant.score``.
    """
    if own := sorted(_OWN & {*generate}):
        raise ArgumentError(f"fit gives every trial its own {own[0]}; leave it out")
    if not prompts:
        raise ArgumentError("there are no prompts to fit on")
    rewards = _Rewards(compiled, reward)
    temperature = generate.get(TEMPERATURE)
    start = dict(compiled.params)
    if isinstance(temperature, (int, float)):
        start[TEMPERATURE] = float(temperature)
    rows = len(prompts) * samples
    batch_size = generate.get("batch_size", 32)
    search = options.search(compiled.plan, start, rewards.objectives, rows, batch_size)
    measured = _Measured(compiled.decoder, rewards, prompts, options.seed, samples, generate)
    try:
        return searched(
            search, options, rewards.objectives, reference, range(len(prompts)), measured, _Kept(),
            progress,
        )  # fmt: skip
    finally:
        rewards.close()


class _Kept(list[Record]):
    """The lines of a search that no file keeps."""

    def read(self) -> list[Record]:
        return self

    def add(self, records: Sequence[Record]) -> None:
        self.extend(records)


class _Measured:
    """Measures points by a decoder; each completion is decoded once."""

    def __init__(
        self,
        decoder: Decoder,
        rewards: _Rewards,
        prompts: Sequence[Any],
        seed: int,
        samples: int,
        generate: Mapping[str, Any],
    ) -> None:
        self._decoder, self._rewards, self._prompts = decoder, rewards, prompts
        self._seed, self._samples, self._generate = seed, samples, dict(generate)
        self._known: dict[tuple[Any, ...], list[float]] = {}

    def __call__(self, name: str, points: Mapping[int, Point], ids: Ids) -> Mapping[int, Measured]:
        of_point = {point: tuple(sorted(params.items())) for point, params in points.items()}
        keys = [(id, values) for id in ids for values in dict.fromkeys(of_point.values())]
        if missing := [key for key in keys if key not in self._known]:
            self._decode(missing)
        return {
            point: {id: self._known[id, values] for id in ids}
            for point, values in of_point.items()
        }  # fmt: skip

    def _decode(self, keys: Sequence[tuple[Any, ...]]) -> None:
        rows = [(id, dict(values), i) for id, values in keys for i in range(self._samples)]
        prompts = [self._prompts[id] for id, _, _ in rows]
        points = [point for _, point, _ in rows]
        arguments = dict(self._generate)
        if TEMPERATURE in points[0]:
            arguments[TEMPERATURE] = [point[TEMPERATURE] for point in points]
        names = list(without_temperature(points[0]))
        completions = self._decoder.generate(
            prompts,
            params={name: [point[name] for point in points] for name in names},
            seed=[seed_of(self._seed, FORMULA, {}, id, sample) for id, _, sample in rows],
            progress=False,
            **arguments,
        )
        values = self._rewards.values(prompts, completions, points)
        for i, key in enumerate(keys):
            own = values[i * self._samples : (i + 1) * self._samples]
            self._known[key] = [sum(column) / len(own) for column in zip(*own, strict=True)]


class _Rewards:
    """Reward expressions by the names of objectives, over a decoder's declared models."""

    def __init__(self, compiled: Compiled, reward: Any) -> None:
        texts, functions = _named(reward)
        models, self._params = compiled.models, compiled.params
        self._specs: dict[str, ModelSpec] = {**models.specs, **functions}
        self.objectives = list(texts)
        self._expressions: dict[str, RewardExpression] = {
            name: reward_expression(text, self._specs, self._params)
            for name, text in texts.items()
        }  # fmt: skip
        self._dtype, self._device = models.dtype, models.device
        for expression in self._expressions.values():
            check_models(expression, self._check)
        read = {model for each in self._expressions.values() for model in models_of(each)}
        self._scorers: dict[str, RewardScorer] = {}
        loaded = models.pool.weights if self._apart(read, compiled.plan.models) else {}
        for model in read:
            if not isinstance(self._specs[model].model, FunctionReward):
                self._scorers[model] = RewardScorer(
                    model,
                    self._specs,
                    self._dtype,
                    self._device,
                    loaded,
                    compiled.decoder.tokenizer,
                )

    def values(
        self, prompts: Sequence[Any], completions: Sequence[Completion], points: Sequence[Point]
    ) -> list[list[float]]:
        """Per completion the value of each objective."""
        texts = [completion.text or "" for completion in completions]
        ids = [completion.token_ids for completion in completions]
        read = {model for each in self._expressions.values() for model in models_of(each)}
        rewards = {model: self._of_model(model, prompts, texts, ids) for model in read}
        return [
            [
                value_of(
                    expression,
                    {model: values[i] for model, values in rewards.items()},
                    len(ids[i]),
                    {**self._params, **without_temperature(point)},
                )
                for expression in self._expressions.values()
            ]
            for i, point in enumerate(points)
        ]

    def close(self) -> None:
        """Remove what is added to models in memory."""
        for scorer in self._scorers.values():
            scorer.close()

    def _of_model(
        self, model: str, prompts: Sequence[Any], texts: Sequence[str], ids: Sequence[Any]
    ) -> list[float]:
        if model in self._scorers:
            return self._scorers[model].scores(prompts, texts)
        function = self._specs[model].model
        assert isinstance(function, FunctionReward)
        values = list[float]()
        for value in function.rewards(model, prompts, texts, ids):
            if isinstance(value, ModelError):
                raise value
            values.append(value)
        return values

    def _check(self, name: str) -> None:
        if not isinstance(self._specs[name].model, FunctionReward):
            reward_model(name, self._specs, self._dtype, self._device)

    def _apart(self, read: Any, of_formula: Any) -> bool:
        """Whether no reward adds to weights that the formula reads."""
        bases = [
            {resolve(name, self._specs).base for name in names} for names in (read, of_formula)
        ]
        return not bases[0] & bases[1]


def _named(reward: Any) -> tuple[dict[str, str], dict[str, ModelSpec]]:
    """The expressions by the names of objectives, and functions as models of those names.

    Raises:
        ArgumentError: none, or what is no reward.
    """
    if isinstance(reward, (str, FunctionReward)):
        reward = [reward]
    if isinstance(reward, Sequence):
        reward = {
            each if isinstance(each, str) else getattr(each, "name", ""): each for each in reward
        }
    if not isinstance(reward, Mapping) or not reward:
        cure = 'give the name of a declared model, an expression, or {"help": …, "-harm": …}'
        raise ArgumentError(f"reward is {quoted(reward)}; {cure}")
    texts, functions = dict[str, str](), dict[str, ModelSpec]()
    for name, each in reward.items():
        plain = name.removeprefix("-")
        if isinstance(each, FunctionReward):
            functions[plain] = make_spec(plain, each)
            each = plain
        if not isinstance(each, str):
            raise ArgumentError(f"reward.{name} is {quoted(each)}; write descant.reward(function)")
        texts[name] = each
    return texts, functions
