"""Expressions over tensors: numbers of the state, and the values of reward expressions.

In a reward expression a term that a row multiplies by 0 counts for nothing, whatever it is: a model
that gives NaN too.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ...formula.scalar import AnswerLength, Apply, Constant, Expression, Scalar, TermNumber


def computed(
    expression: Expression,
    leaf: Callable[[Expression], Tensor | None],
    factors: Container[Expression] = (),
) -> Any:
    """An expression's value in float32: a tensor, or a float for a constant.

    Args:
        expression: what is worked out.
        leaf: gives the tensor of a part that is known, and None of the others.
        factors: parts that make a product 0 where they are 0, whatever it is of.
    """
    if (own := leaf(expression)) is not None:
        return own
    if isinstance(expression, Constant):
        return float(expression.value)
    assert isinstance(expression, Apply)
    operation = _OPERATIONS[expression.op]
    values: list[Any] = []
    weights: list[Any] = []
    for argument in expression.arguments:
        weighs = expression.op == "*" and argument in factors
        (weights if weighs else values).append(computed(argument, leaf, factors))
    result = reduce(operation, values) if values[1:] else values[0]
    if len(expression.arguments) == 1:
        return operation(result)
    if weights:
        weight = reduce(operation, weights)
        return torch.where(weight != 0, weight * result, 0.0)
    return result


def reward_value(
    reward: Scalar,
    terms: Sequence[Tensor],
    answer_length: Tensor | None,
    number: Callable[[Scalar], Tensor],
) -> Tensor:
    """A reward expression's value, of tensors that broadcast.

    Args:
        reward: the expression.
        terms: per term of it, what it says of the texts: ``(slots, k)``, for example.
        answer_length: tokens of the answers, at least 1, as ``(slots, 1)``; None where the
            expression does not have it.
        number: gives ``(slots, 1)``, a row's own number.
    """
    parts = {part.expression: part for part in reward.parts}
    of_terms = dict(zip(reward.terms, terms, strict=True))

    def leaf(expression: Expression) -> Any:
        match expression:
            case TermNumber(term):
                return of_terms[term]
            case AnswerLength():
                return answer_length
        part = parts.get(expression)
        return None if part is None else number(part)

    value: Tensor = computed(reward.expression, leaf, parts)
    return value


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "**": lambda a, b: a**b,
    "max": lambda a, b: a.clamp(min=b) if isinstance(a, Tensor) else b.clamp(min=a),
    "min": lambda a, b: a.clamp(max=b) if isinstance(a, Tensor) else b.clamp(max=a),
    **{name: getattr(torch, name) for name in ("abs", "exp", "log", "sqrt", "sigmoid")},
}
