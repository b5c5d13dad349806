"""A search in Python: a decoder's completions, scored by models that it was compiled with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ...errors import ArgumentError, quoted
from ...formula.reward import RewardExpression
from ...inputs.expand import seed_of, without_temperature
from ...inputs.grid import Point
from ...inputs.runfile import TEMPERATURE
from ...inputs.sections import FORMULA
from ...models import ModelError, ModelSpec, make_spec, prompts_of, resolve
from ...models.functions import FunctionReward
from ...runtime import Completion, DraftBinder
from ...runtime.fit.result import Fit, run_file_of
from ...runtime.requests.per_row import at_least_one
from ...scoring.declared import reward_model
from ...scoring.expressions import check_models, models_of, reward_expression, value_of
from ...scoring.rewards import RewardScorer
from .options import Options
from .result import fit_of
from .search import searched
from .trials import Ids, Measured, Record

_OWN = ("num_return_sequences", "return_particles", "logprobs", "top_logprobs")


def fit_by_rewards(
    decoder: Any,
    prompts: Any,
    reward: Any,
    *,
    params: Mapping[str, float] | None = None,
    samples: int = 1,
    reference: Mapping[str, float] | None = None,
    progress: bool | None = None,
    **more: Any,
) -> Fit:
    """``Decoder.fit`` with ``objective="reward"``; the decoder is as it was.

    Args:
        decoder: one that ``descant.compile`` has made.
        prompts: one or many.
        reward: a declared reward model's name, a reward expression over several, or a function
            (``descant.reward``); a list of them, or by names, with a minus where less is better.
        params: where the search begins, and what the others are; left out, the decoder's values.
        samples: completions of each prompt at each point.
        reference: of hypervolume, by the names of rewards.
        more: the attributes of ``Options``, and arguments of ``generate``, whose temperature is the
            start of its own search.

    Returns:
        A ``Fit``: ``stderr`` is that of each score, ``table`` has a row per trial, and ``search``
        what ``fit.json`` has.

    Raises:
        ArgumentError: arguments that do not fit together, or bounds; FormulaError, ModelError: as
            ``generate`` and ``descant.score``.
    """
    asked = {item.name for item in fields(Options)} & more.keys()
    options = Options(**{**{name: more[name] for name in asked}, "bounds": more["bounds"] or {}})
    generate = {name: value for name, value in more.items() if name not in asked}
    if own := [name for name in _OWN if name in generate]:
        cure = "write samples=4" if own[0] == "num_return_sequences" else "leave it out"
        raise ArgumentError(f"fit has no argument {own[0]}; {cure}")
    at_least_one("samples", samples)
    many, plan, models = prompts_of(prompts), decoder._bound.plan, decoder._models("fit")
    start = {**decoder._params, **(params or {})}
    rewards = _Rewards(decoder, models, start, reward)
    temperature = generate.get(TEMPERATURE)
    begins = start if temperature is None else {**start, TEMPERATURE: float(temperature)}
    rows, batch_size = len(many) * samples, generate.get("batch_size", 32)
    try:
        search = options.search(plan, begins, rewards.objectives, rows, batch_size)
        measured = _Measured(decoder, rewards, many, options.seed, samples, start, generate)
        outcome = searched(
            search, options, rewards.objectives, reference, range(len(many)), measured, _Kept(),
            progress,
        )  # fmt: skip
    finally:
        rewards.close()
    found = without_temperature(outcome.params)
    texts = models.names.prompts, models.names.schemas, models.names.grammars
    run_file = run_file_of(plan.source, {**start, **found}, models.specs, texts)
    if TEMPERATURE in outcome.params:
        run_file["generate"] = {TEMPERATURE: outcome.params[TEMPERATURE]}
    return fit_of(outcome, run_file, search.space)


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
        decoder: Any,
        rewards: _Rewards,
        prompts: Sequence[Any],
        seed: int,
        samples: int,
        params: Mapping[str, float],
        generate: Mapping[str, Any],
    ) -> None:
        self._decoder, self._rewards, self._prompts = decoder, rewards, prompts
        self._seed, self._samples, self._generate = seed, samples, dict(generate)
        self._params = params
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
            params={**self._params, **{name: [point[name] for point in points] for name in names}},
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

    def __init__(
        self, decoder: Any, models: DraftBinder, params: Mapping[str, float], reward: Any
    ) -> None:
        texts, functions = _named(reward)
        self._params = params
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
        loaded = models.pool.weights if self._apart(read, decoder._bound.plan.models) else {}
        for model in read:
            if not isinstance(self._specs[model].model, FunctionReward):
                self._scorers[model] = RewardScorer(
                    model,
                    self._specs,
                    self._dtype,
                    self._device,
                    loaded,
                    decoder.tokenizer,
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
