"""What each operator does to scores: the walk from a plan to one tensor of scores per step.

Tensors in, tensors out, a row per slot. The one place that asks the device is ``where``: it does
not read the lanes of a side that no row takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce, singledispatch
from typing import Any

import torch
from torch import Tensor

from ..formula.nodes import Condition, Linear, Predicate, Read, Scalar, Staged, State
from ..formula.operators import Debias, Max, Mean, Min, Mix, Plausible, PowerMean, Temp, Where
from .context import Context
from .scored import Scored, entropy, from_masked, log_softmax
from .stages import chain

NEAR = 1e-3  # powers closer to 0 than this lose digits in a sum of near ones


@singledispatch
def evaluate(node: Any, context: Context) -> Scored:
    """The scores of a node of the plan."""
    raise TypeError(f"no scores for {node}")


@evaluate.register
def _(node: Read, context: Context) -> Scored:
    return context.terms[node.term]()


@evaluate.register
def _(node: Linear, context: Context) -> Scored:
    """A token that any part with a non-zero coefficient excludes is excluded, whatever the sign."""
    total: Tensor | None = None
    excluded: Tensor | None = None
    beyond: list[tuple[Tensor, Tensor | None]] = []
    for coefficient, part in node.parts:
        if not context.runs(coefficient):
            continue
        scored, weight = evaluate(part, context), context.number(coefficient)
        scaled = scored.values * weight
        total = scaled if total is None else total.add_(scaled)
        if scored.excluded is not None:
            hidden = scored.excluded & (weight != 0)
            excluded = hidden if excluded is None else excluded.logical_or_(hidden)
        beyond.append((weight, scored.beyond))
    if total is None:  # every coefficient is 0 for every row
        total = context.nothing().values
    rest = _beyond(beyond)
    if node.shift is not None:
        total = total.add_(context.number(node.shift))
        rest = rest + context.number(node.shift) if rest is not None else None
    return Scored(total, excluded, rest)


def _beyond(parts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    """A sum's score of what is beyond the vocabulary: as of a token, which any part may exclude."""
    if all(said is None for _, said in parts):
        return None
    total, some = torch.zeros_like(parts[0][0]), torch.zeros_like(parts[0][0], dtype=torch.bool)
    for weight, said in parts:
        here = weight != 0
        nothing = torch.full_like(weight, -torch.inf)
        scaled = nothing if said is None else torch.where(said.isinf(), nothing, weight * said)
        total, some = torch.where(here, total + scaled, total), some | here
    return total.masked_fill(~some, -torch.inf)


@evaluate.register
def _(node: Staged, context: Context) -> Scored:
    if node not in context.staged:  # a reward model is asked once, however often it is written
        with context.only(None):  # kept for every place where it is written
            head = evaluate(node.head, context)
            context.staged[node] = chain(head, context, node, node.stages)
    return context.staged[node]


@evaluate.register
def _(node: Max, context: Context) -> Scored:
    """Excluded where every part excludes."""
    best, *rest = (evaluate(part, context).masked() for part in node.parts)
    for other in rest:
        best = torch.maximum(best, other)
    return from_masked(best)


@evaluate.register
def _(node: Min, context: Context) -> Scored:
    """Excluded where any part excludes."""
    worst, *rest = (evaluate(part, context).masked() for part in node.parts)
    for other in rest:
        worst = torch.minimum(worst, other)
    return from_masked(worst)


@evaluate.register
def _(node: Mix, context: Context) -> Scored:
    """Where every weight is 0, every token is excluded."""
    parts = [torch.full_like(context.nothing().values, -torch.inf)]
    for weight, part in node.parts:
        if context.runs(weight):
            parts.append(evaluate(part, context).logprobs() + context.number(weight).log())
    return from_masked(torch.stack(parts).logsumexp(dim=0))


@evaluate.register
def _(node: PowerMean, context: Context) -> Scored:
    """In double precision, and near p = 0 by what differs from 1; where every weight is 0, every
    token is excluded.
    """
    p = context.number(node.p).double()
    parts = [(number, part) for number, part in node.parts if context.runs(number)]
    weights = [context.number(number).double() for number, _ in parts]
    total = sum(weights, torch.zeros_like(p))
    power, whole = torch.where(p == 0, 1.0, p), torch.where(total > 0, total, 1.0)
    excluded = torch.full_like(context.nothing().values, -torch.inf, dtype=torch.double)
    powers, excess, logs = [excluded], torch.zeros_like(excluded), torch.zeros_like(excluded)
    for weight, (_, part) in zip(weights, parts, strict=True):
        value, share = evaluate(part, context).logprobs().double(), weight / whole
        powers.append(torch.where(weight > 0, power * value + share.log(), -torch.inf))
        excess = excess + torch.where(weight > 0, share * (power * value).expm1(), 0.0)
        logs = logs + torch.where(weight > 0, share * value, 0.0)
    powered = torch.where(
        power.abs() < NEAR, excess.log1p(), torch.stack(powers).logsumexp(dim=0)
    ).div(power)  # fmt: skip
    rounded = (whole - 1).abs() < 1e-6  # the weights are float32, and 1 is what was meant
    powered = powered + torch.where(rounded, 0.0, whole.log() / power)
    mean = torch.where(p == 0, logs, powered)
    return from_masked(torch.where(total > 0, mean, -torch.inf).float())


@evaluate.register
def _(node: Mean, context: Context) -> Scored:
    scored = evaluate(node.x, context)
    return from_masked(log_softmax(scored.masked() / context.number(node.total)))


@evaluate.register
def _(node: Temp, context: Context) -> Scored:
    scored = evaluate(node.x, context)
    return from_masked(log_softmax(scored.masked() / context.number(node.t)))


@evaluate.register
def _(node: Plausible, context: Context) -> Scored:
    scored = evaluate(node.x, context)
    masked = scored.masked()
    lowest = masked.amax(dim=-1, keepdim=True) + context.number(node.alpha).log()
    return scored.without(masked < lowest)


@evaluate.register
def _(node: Debias, context: Context) -> Scored:
    """Schick et al. 2021: a token that y likes better than x does falls, by lam times how much."""
    x, y = evaluate(node.x, context).masked(), evaluate(node.y, context).masked()
    biased = (x.exp() - y.exp()).clamp_(max=0) * context.number(node.lam)
    return from_masked(log_softmax(x + biased))


@evaluate.register
def _(node: Where, context: Context) -> Scored:
    """Rows that do not take the side in which this stands have no say in what is read."""
    holds = condition(node.condition, context).expand(context.values.shape[0], 1)
    wanted = torch.ones_like(holds) if context.wanted is None else context.wanted
    for_x, for_y = holds & wanted, ~holds & wanted
    some_x, some_y = torch.stack((for_x.any(), for_y.any())).tolist()
    if not (some_x and some_y):
        return evaluate(node.x if some_x else node.y, context)
    with context.only(for_x):
        x = evaluate(node.x, context)
    with context.only(for_y):
        y = evaluate(node.y, context)
    rest = _beyond([(holds.float(), x.beyond), ((~holds).float(), y.beyond)])
    return from_masked(torch.where(holds, x.masked(), y.masked()))._replace(beyond=rest)


def condition(node: Condition, context: Context) -> Tensor:
    """``(slots, 1)``: a condition as bool, or one side of a comparison as float."""
    match node:
        case Scalar():
            return context.number(node)
        case State(name="step"):
            return context.steps[:, None].float()
        case State(name=name, of=of):
            logprobs = evaluate(of, context).logprobs()
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
