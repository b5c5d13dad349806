"""Numbers of the state: what a step works out before it uses them, a value per row.

They are of softmaxes: ``entropy(x) = -Σ p log p``, ``max_prob(x)``, ``kl(x, y) = Σ p (log p - log
q)``, ``js(x, y)``, half the divergences of both from their mean (natural logarithms; Lin 1991, with
equal weights). ``step`` counts the tokens that a row has drawn; ``thinking`` is 1 in a thought,
else 0; ``head(x, v)`` is what a head of one output gives of its row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ...formula.nodes import Node, numbers
from ...formula.scalar import Expression, Scalar, StateNumber
from ...formula.words.operators import Head
from ...formula.words.signature import LEAST, MOST, Limits
from ...grammar.unrolled import Steps
from .context import Columns, Context, Reading, ScalarColumn
from .expressions import computed
from .logprobs import entropy, log_softmax

ROUNDING = 1e-6  # by so much a number may be beyond its limits; it is moved there


Scorer: TypeAlias = "Callable[[Any, Columns], Steps[Reading]]"  # of the scores of a node
Filler: TypeAlias = "Callable[[Context], list[ScalarColumn]]"


def with_numbers(node: Node, reading: Reading, columns: Columns, scorer: Scorer) -> Steps[Reading]:
    """A node's scores, after the numbers of its own that are others in each step."""
    fill = yield filler(numbers(node), columns, scorer)
    if fill is None:
        return reading

    def scores(context: Context) -> Tensor:
        before = context.numbers
        context.numbers = fill(context)
        result = reading(context)
        context.numbers = before  # elsewhere they may be for other rows
        return result

    return scores


def filler(held: Iterable[Scalar], columns: Columns, scorer: Scorer) -> Steps[Filler | None]:
    """What gives a context's numbers, with those that are others in each step; None without any."""
    valuers: list[tuple[int, Reading]] = []
    for scalar in dict.fromkeys(each for each in held if each.states):
        valuers.append((columns[scalar], (yield valuer(scalar, columns, scorer))))
    if not valuers:
        return None

    def fill(context: Context) -> list[ScalarColumn]:
        filled = [*context.numbers]
        for column, value in valuers:
            if filled[column].varies:
                filled[column] = filled[column]._replace(values=value(context))
        return filled

    return fill


def valuer(scalar: Scalar, columns: Columns, scorer: Scorer) -> Steps[Reading]:
    """What gives ``(slots, 1)`` float32, a number's value in a step; what is wrong is noted."""
    for number in scalar.states:
        if number not in columns.states:
            columns.states[number] = yield _state(number, columns, scorer)
    known = {each.expression: columns[each] for each in scalar.known}
    column, states = columns.get(scalar, -1), columns.states

    def value(context: Context) -> Tensor:
        def leaf(expression: Expression) -> Tensor | None:
            if expression in known:
                return context.numbers[known[expression]].values
            return states[expression](context) if isinstance(expression, StateNumber) else None

        result = computed(scalar.expression, leaf)
        if known:  # a row may have a number that is 0 whatever the state is
            own = context.numbers[column].values
            result = torch.where(own.isnan(), result, own)
        return _within(scalar, result, context)

    return value


def _state(number: StateNumber, columns: Columns, scorer: Scorer) -> Steps[Reading]:
    if number.name == "step":
        return lambda context: context.steps[:, None].float()
    if number.name == "thinking":
        return _thinking
    parts: list[Reading] = []
    for scores in number.of:
        parts.append((yield scorer(scores, columns)))
    if number.name == Head.name:  # a term that no row needs gives zeros of any width
        return lambda context: parts[0](context)[:, :1]
    rule = _RULES[number.name]

    def value(context: Context) -> Tensor:
        rows, computed = context.state_numbers.get(number, (context.wanted, None))
        if computed is None or (rows is not None and rows is not context.wanted):
            computed = rule(*(context.tokens(log_softmax(part(context))) for part in parts))
            context.state_numbers[number] = context.wanted, computed
        return computed

    return value


def _thinking(context: Context) -> Tensor:
    numbers: Tensor = context.thoughts.numbers()
    return numbers


def _within(scalar: Scalar, value: Tensor, context: Context) -> Tensor:
    """A number within its limits; where it is NaN, or beyond them, is noted."""
    low, high = bounds(scalar.limits, context.vocabulary)
    if scalar.limits.integer:
        value = value.round()
    wrong = ~((value >= low - ROUNDING) & (value <= high + ROUNDING))
    if scalar.limits.above:
        wrong |= value <= low
    context.note(("number", scalar), wrong[:, 0])
    return value.clamp(low, high)


def bounds(limits: Limits, vocabulary: int) -> tuple[float, float]:
    """The least and the most that a number may be in a step."""
    low = max(limits.low, LEAST) if limits.divides else limits.low
    high = min(limits.high, vocabulary) if limits.tokens else limits.high
    return max(low, -MOST), min(high, MOST)


def kl(logprobs: Tensor, others: Tensor) -> Tensor:
    """``(slots, V)`` log-probabilities, twice, to ``(slots, 1)`` nats; infinity where q is 0."""
    terms = logprobs.exp() * (logprobs - others)
    terms = torch.where(logprobs == -torch.inf, 0.0, terms)
    return terms.sum(dim=-1, keepdim=True).clamp_(min=0)


def js(logprobs: Tensor, others: Tensor) -> Tensor:
    """``(slots, V)`` log-probabilities, twice, to ``(slots, 1)`` nats, at most ``log 2``."""
    mean = torch.logaddexp(logprobs, others).sub_(math.log(2))
    return (kl(logprobs, mean) + kl(others, mean)).mul_(0.5)


_RULES: dict[str, Callable[..., Tensor]] = {
    "entropy": entropy,
    "max_prob": lambda logprobs: logprobs.amax(dim=-1, keepdim=True).exp(),
    "kl": kl,
    "js": js,
}
