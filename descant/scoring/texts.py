"""``descant.score``: rewards of texts, by a model, a function, or an expression over several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..api import declared, where
from ..errors import ArgumentError
from ..models import ModelError, ModelSpec
from ..models.functions import FunctionReward
from .declared import reward_model
from .expressions import (
    check_models,
    counts_tokens,
    is_expression,
    models_of,
    reward_expression,
    values_of,
)
from .rewards import RewardScorer


def score(
    model: Any,
    prompts: Sequence[Any],
    texts: Sequence[str],
    *,
    models: Mapping[str, Any] | None = None,
    params: Mapping[str, float] | None = None,
    dtype: Any = None,
    device: Any = None,
    tokenizer: Any = None,
) -> list[float]:
    """The rewards of texts as answers to their prompts, one float per text.

    Args:
        model: a path or hub id, a spec, a model in memory, a function (``descant.reward``), the
            name of one of ``models``, or a reward expression over several: ``min(help, safe)``.
        prompts: one per text: text, chat messages or token ids.
        texts: the answers.
        models: declared models by name, for names and for an adapter's ``on``.
        params: values for the parameters of an expression.
        dtype, device: where the spec names none.
        tokenizer: decodes prompts that are token ids; counts the tokens of ``answer_length``.

    Raises:
        FormulaError: an expression that is wrong, marked at the place.
        ModelError: not a reward model, or a text that it cannot read; a function that fails.

    Examples:
        >>> import descant
        >>> def short(completions, **kwargs):
        ...     return [-float(len(text)) for text in completions]
        >>> descant.score(descant.reward(short), ["Hi?", "Hi?"], ["Hi.", "Hello."])
        [-3.0, -6.0]
    """
    if len(prompts) != len(texts):
        raise ArgumentError(f"there are {len(prompts)} prompts and {len(texts)} texts")
    known, text = dict(models or {}), model if isinstance(model, str) else ""
    specs = declared(known)
    if not text or not is_expression(text, specs, params):
        name = text if text in known else "the reward model"
        specs = specs if name in known else declared({**known, name: model})
        return _of_model(name, specs, prompts, texts, dtype, device, tokenizer)
    expression = reward_expression(text, specs, params)
    word, where_to = where(dtype, device)
    check_models(expression, lambda name: _check(name, specs, word, where_to))
    lengths = [1] * len(texts)
    if counts_tokens(expression):
        if tokenizer is None:
            raise ArgumentError("answer_length counts tokens; give tokenizer=, the formula's")
        lengths = [len(tokenizer(each, add_special_tokens=False)["input_ids"]) for each in texts]
    rewards = {
        name: _of_model(name, specs, prompts, texts, dtype, device, tokenizer)
        for name in models_of(expression)
    }
    return list(values_of(expression, rewards, lengths, [params or {}] * len(texts)))


def _check(name: str, specs: Mapping[str, ModelSpec], dtype: str | None, device: str) -> None:
    """Refuse what is no reward of texts, by a ModelError."""
    if not isinstance(specs[name].model, FunctionReward):
        reward_model(name, specs, dtype, device)


def _of_model(
    name: str,
    specs: Mapping[str, ModelSpec],
    prompts: Sequence[Any],
    texts: Sequence[str],
    dtype: Any,
    device: Any,
    tokenizer: Any,
) -> list[float]:
    """The rewards of texts by one declared model."""
    function = specs[name].model
    if isinstance(function, FunctionReward):
        return function_scores(name, function, prompts, texts)
    dtype, device = where(dtype, device)
    scorer = RewardScorer(name, specs, dtype, device, {}, tokenizer)
    try:
        return scorer.scores(prompts, texts)
    finally:
        scorer.close()


def function_scores(
    name: str, function: FunctionReward, prompts: Sequence[Any], texts: Sequence[str]
) -> list[float]:
    """The rewards of a function, in one call, which is given no tokens.

    Raises:
        ModelError: it needs tokens, or fails.
    """
    if function.needs_ids:
        problem = f"{name} calls {function.name}, which needs completion_ids, and texts have none"
        raise ModelError(problem, "give completion_ids a default", name)
    values = list[float]()
    for reward in function.rewards(name, prompts, texts, None) if texts else ():
        if isinstance(reward, ModelError):
            raise reward
        values.append(reward)
    return values
