"""Reward expressions over texts: of run files' ``score:``, of ``descant compare`` and ``score``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ..api import names_of
from ..formula.planner import make_reward
from ..formula.reward import RewardExpression
from ..formula.scalar import AnswerLength, has
from ..grammar import FormulaError
from ..models import ModelError, ModelSpec


def reward_expression(
    text: str, specs: Mapping[str, ModelSpec], params: Mapping[str, float] | None = None
) -> RewardExpression:
    """A reward expression over declared models, each as it is declared.

    Raises:
        FormulaError: anything that is wrong with it, marked at the place.
    """
    expression = make_reward(text, names_of(specs, params, None))
    for term in expression.terms:
        if str(term) != term.model:
            problem = f"texts are scored by models as they are declared, and not by {term}"
            cure = f"write {term.model}, or declare another model for it"
            raise expression.error(problem, expression.spans[term], cure)
    return expression


def is_expression(
    text: str, specs: Mapping[str, ModelSpec], params: Mapping[str, float] | None = None
) -> bool:
    """Whether a text is a reward expression, and no declared name, and neither a path nor an id.

    Raises:
        FormulaError: it can only be an expression, and is wrong.
    """
    if text in specs or text.isidentifier():
        return False
    try:
        reward_expression(text, specs, params)
    except FormulaError as error:
        if any(character in text for character in "()*+^, ") or error.more:
            raise
        return False
    return True


def models_of(expression: RewardExpression) -> list[str]:
    """The models that an expression names, each once."""
    return list(dict.fromkeys(term.model for term in expression.terms))


def counts_tokens(expression: RewardExpression) -> bool:
    """Whether an expression depends on how long an answer is."""
    return has(AnswerLength, expression.reward.expression)


def check_models(expression: RewardExpression, check: Callable[[str], object]) -> None:
    """Check every model of an expression by its name.

    Raises:
        FormulaError: what the check says of a model, marked where the expression names it.
    """
    for term in expression.terms:
        try:
            check(term.model)
        except ModelError as error:
            span = expression.spans[term]
            raise expression.error(error.problem, span, error.cure, error.more) from error


def value_of(
    expression: RewardExpression,
    rewards: Mapping[str, float],
    answer_length: int,
    params: Mapping[str, float],
) -> float:
    """The value of one answer: its reward by each model, its tokens, and the parameters' values."""
    by_term = {term: rewards[term.model] for term in expression.terms}
    return expression.value(by_term, answer_length, params)


def values_of(
    expression: RewardExpression,
    rewards: Mapping[str, Sequence[float]],
    lengths: Sequence[int],
    params: Sequence[Mapping[str, float]],
) -> Iterator[float]:
    """The values of several answers, as ``value_of``."""
    for i, (length, own) in enumerate(zip(lengths, params, strict=True)):
        yield value_of(expression, {name: row[i] for name, row in rewards.items()}, length, own)
