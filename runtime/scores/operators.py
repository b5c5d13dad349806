"""What each operator does to scores: the walk from a plan to one tensor of scores per step.

Tensors in, tensors out, a row per slot. The one place that asks the device is ``where``: it does
not read the lanes of a side that no row takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, singledispatch
from typing import Any

import torch
from torch import Tensor

from ...formula.nodes import Condition, Linear, Predicate, Read, Scalar, Staged, State
from ...formula.words.operators import (
    Debias,
    Max,
    Mean,
    Min,
    Mix,
    Plausible,
    PowerMean,
    Temp,
    Where,
)
from .context import Context
from .logprobs import LOWEST, entropy, from_up, log_softmax, parted
from .stages import chain

LEAST = 1e-30  # powers closer to 0 than this have their limit's value
FARTHEST = 1e3  # a constant beyond this would leave float32 no digits for the differences


@singledispatch
def evaluate(node: Any, context: Context) -> Tensor:
    """The scores of a node of the plan, ``(slots, V)``, which nobody may write to."""
    raise TypeError(f"no scores for {node}")


@evaluate.register
def _(node: Read, context: Context) -> Tensor:
    return context.terms[node.term](context)


@evaluate.register
def _(node: Linear, context: Context) -> Tensor:
    """A token that any part with a non-zero coefficient excludes is excluded, whatever the sign."""
    total: Tensor | None = None
    excluded: list[Tensor] = []
    for coefficient, part in node.parts:
        if not context.runs(coefficient):
            continue
        scores, weight = _weighed(coefficient, part, context), context.number(coefficient)
        if not context.range(coefficient).positive:
            scores, hidden = parted(scores)
            excluded.append(torch.where(weight != 0, hidden, 0.0))
        if total is None:
            total = scores if context.range(coefficient).one else scores * weight
        else:
            total = total.addcmul(scores, weight)
    if total is None:  # every coefficient is 0 for every row
        total = context.nothing()
    if node.shift is not None:
        total = total + context.number(node.shift)
    return sum(excluded, total)


@evaluate.register
def _(node: Staged, context: Context) -> Tensor:
    if node not in context.staged:  # a reward model is asked once, however often it is written
        with context.only(None):  # kept for every place where it is written
            head = context.tokens(evaluate(node.head, context))
            context.staged[node] = context.padded(chain(head, context, node, node.stages))
    return context.staged[node]


@evaluate.register
def _(node: Max, context: Context) -> Tensor:
    """Excluded where every part excludes."""
    return reduce(torch.maximum, (evaluate(part, context) for part in node.parts))


@evaluate.register
def _(node: Min, context: Context) -> Tensor:
    """Excluded where any part excludes."""
    return reduce(torch.minimum, (evaluate(part, context) for part in node.parts))


@evaluate.register
def _(node: Mix, context: Context) -> Tensor:
    """Where every weight is 0, every token is excluded."""
    parts = [
        log_softmax(_weighed(weight, part, context)).add_(context.number(weight).log())
        for weight, part in node.parts
        if context.runs(weight)
    ]
    return reduce(torch.logaddexp, parts) if parts else context.nothing().fill_(-torch.inf)


@evaluate.register
def _(node: PowerMean, context: Context) -> Tensor:
    """``log (sum_i w_i exp(p x_i))^(1/p)``, by how far each power is from the largest of them.

    In that way no digits are lost, however close p is to 0. Where the weights add up to W, log(W)/p
    is the same for every token; it is cut where it would swamp the scores. Where every weight is 0,
    every token is excluded.
    """
    parts = [(number, part) for number, part in node.parts if context.runs(number)]
    if not parts:
        return context.nothing().fill_(-torch.inf)
    p, weights = context.number(node.p), [context.number(number) for number, _ in parts]
    power = torch.where(p.abs() < LEAST, torch.where(p > 0, LEAST, -LEAST), p)
    powers = [log_softmax(_weighed(*part, context)).mul_(power) for part in parts]
    for i, (number, _) in enumerate(parts):
        if not context.range(number).positive:
            powers[i] = torch.where(weights[i] > 0, powers[i], -torch.inf)
    total = sum(weights, torch.zeros_like(p))
    whole = torch.where(total > 0, total, 1.0)
    largest = reduce(torch.maximum, powers)
    around = largest.clamp(min=LOWEST, max=-LOWEST)
    spread = (powers[0] - around).expm1_().mul_(weights[0] / whole)
    for weight, one in zip(weights[1:], powers[1:], strict=True):
        spread.addcmul_(one.sub_(around).expm1_(), weight / whole)
    mean = spread.clamp_(min=-1 + 2**-24).log1p_().add_(largest).div_(power)
    unit = (whole - 1).abs() < 1e-6  # the weights are float32, and 1 is what was meant
    constant = (whole.log() / power).clamp_(-FARTHEST, FARTHEST)
    mean.add_(torch.where((p == 0) | unit, 0.0, constant))
    if any(context.range(number).positive for number, _ in parts):
        return mean
    return torch.where(total > 0, mean, -torch.inf)


@evaluate.register
def _(node: Mean, context: Context) -> Tensor:
    return log_softmax(evaluate(node.x, context) / context.number(node.total))


@evaluate.register
def _(node: Temp, context: Context) -> Tensor:
    return log_softmax(evaluate(node.x, context) / context.number(node.t))


@evaluate.register
def _(node: Plausible, context: Context) -> Tensor:
    scores = context.tokens(evaluate(node.x, context))
    lowest = scores.amax(dim=-1, keepdim=True) + context.number(node.alpha).log()
    return context.padded(from_up(scores, lowest))


@evaluate.register
def _(node: Debias, context: Context) -> Tensor:
    """Schick et al. 2021: a token that y likes better than x does falls, by lam times how much."""
    x, y = evaluate(node.x, context), evaluate(node.y, context)
    biased = x.exp().sub_(y.exp()).clamp_(max=0).mul_(context.number(node.lam))
    return log_softmax(biased.add_(x))


@evaluate.register
def _(node: Where, context: Context) -> Tensor:
    """Rows that do not take the side in which this stands have no say in what is read."""
    holds = condition(node.condition, context).expand(context.values.shape[0], 1)
    wanted = torch.ones_like(holds) if context.wanted is None else context.wanted
    for_x, for_y = holds & wanted, ~holds & wanted
    some_x = some_y = True
    if context.asks:
        some_x, some_y = torch.stack((for_x.any(), for_y.any())).tolist()
    if not (some_x or some_y):
        return context.nothing()
    if not (some_x and some_y):
        return evaluate(node.x if some_x else node.y, context)
    with context.only(for_x):
        x = evaluate(node.x, context)
    with context.only(for_y):
        y = evaluate(node.y, context)
    return torch.where(holds, x, y)


def _weighed(number: Scalar, part: Any, context: Context) -> Tensor:
    """A part's scores, read for the rows that give it a weight."""
    if isinstance(part, Read) or not context.range(number).splits:
        return evaluate(part, context)
    rows = context.number(number) != 0
    with context.only(rows if context.wanted is None else rows & context.wanted):
        return evaluate(part, context)


def condition(node: Condition, context: Context) -> Tensor:
    """``(slots, 1)``: a condition as bool, or one side of a comparison as float."""
    match node:
        case Scalar():
            return context.number(node)
        case State(name="step"):
            return context.steps[:, None].float()
        case State(name=name, of=of):
            logprobs = context.tokens(log_softmax(evaluate(of, context)))
            if name == "max_prob":
                return logprobs.amax(dim=-1, keepdim=True).exp()
            return entropy(logprobs)
        case Predicate(op, parts):
            first, *rest = (condition(part, context) for part in parts)
            if not rest:
                return _OPERATIONS[op, 1](first)
            return reduce(_OPERATIONS[op, 2], rest, first)


_OPERATIONS: dict[tuple[str, int], Callable[..., Tensor]] = {
    ("not", 1): torch.logical_not,
    ("and", 2): torch.logical_and,
    ("or", 2): torch.logical_or,
    ("<", 2): torch.lt,
    ("<=", 2): torch.le,
    (">", 2): torch.gt,
    (">=", 2): torch.ge,
    ("+", 2): torch.add,
    ("-", 2): torch.sub,
    ("*", 2): torch.mul,
    ("/", 2): torch.div,
    ("**", 2): torch.pow,
    ("-", 1): torch.neg,
    ("+", 1): torch.positive,
    ("abs", 1): torch.abs,
    ("exp", 1): torch.exp,
    ("log", 1): torch.log,
    ("sqrt", 1): torch.sqrt,
    ("max", 2): torch.maximum,
    ("min", 2): torch.minimum,
}
