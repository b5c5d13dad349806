"""What each operator does to scores: a plan becomes one function of a step's context.

Made once per plan, so that a step looks nothing up. Tensors in, tensors out, a row per slot. The
one place that asks the device is ``where``: it does not run the lanes of a side that no row takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from fractions import Fraction
from functools import partial, reduce, singledispatch
from typing import Any

import torch
from torch import Tensor

from ...formula.nodes import Condition, Linear, Read, Staged, numbers
from ...formula.scalar import Constant, Scalar
from ...formula.words import operators as words
from ...grammar.unrolled import Steps, unrolled
from .context import Columns, Context, Reading
from .logprobs import LOWEST, from_up, log_softmax, parted
from .stages import chain
from .state import Filler, filler, valuer, with_numbers

LEAST = 1e-30  # powers closer to 0 than this have their limit's value
FARTHEST = 1e3  # a constant beyond this would leave float32 no digits for the differences
ONE = Constant(Fraction(1))


def scorer(node: Any, columns: Columns) -> Reading:
    """The function that gives a node's scores, ``(slots, V)``, which nobody may write to.

    It calls itself for what is inside. To be of use in a deep caller, it takes at most three frames
    of Python's stack for each operator of the formula inside another.
    """
    return unrolled(_scorer(node, columns))


def _scorer(node: Any, columns: Columns) -> Steps[Reading]:
    reading: Reading = yield _made(node, columns)
    if not isinstance(node, Read | Staged):
        reading = yield with_numbers(node, reading, columns, _scorer)
    if isinstance(node, words.Operator) and node.keeps_state:
        return partial(_once, node, reading)
    return reading


def _once(node: words.Operator, reading: Reading, context: Context) -> Tensor:
    """The scores of an operator with a state, which no step changes twice, nor for some rows."""
    if node not in context.staged:
        with context.only(context.needing[node].mask):
            context.staged[node] = reading(context)
    return context.staged[node]


@singledispatch
def _made(node: Any, columns: Columns) -> Steps[Reading]:
    """The same, over numbers that are there."""
    raise TypeError(f"no scores for {node}")


def evaluate(node: Any, context: Context) -> Tensor:
    """The scores of one node, ``(slots, V)``, for those who look into a step."""
    return scorer(node, context.columns)(context)


def number_in(scalar: Scalar, context: Context) -> Tensor:
    """``(slots, 1)`` a number's value in a step, for those who look into it."""
    if not scalar.states or (scalar in context.columns and not context.known(scalar).varies):
        return context.number(scalar)
    value: Reading = unrolled(valuer(scalar, context.columns, _scorer))
    return value(context)


def stage_numbers(stages: Sequence[Any], columns: Columns) -> Filler | None:
    """What fills in the numbers of a chain of stages that are others in each step."""
    made: Filler | None = unrolled(
        filler((each for stage in stages for each in numbers(stage)), columns, _scorer)
    )
    return made


@_made.register
def _(node: Read, columns: Columns) -> Steps[Reading]:
    yield from ()
    number = columns.reads[node]
    return lambda context: context.reads[number](context)


@_made.register
def _(node: Linear, columns: Columns) -> Steps[Reading]:
    """A token that any part with a non-zero coefficient excludes is excluded, whatever the sign."""
    (first, only), *more = node.parts
    if not more and node.shift is None and first.expression == ONE:
        reading: Reading = yield _scorer(only, columns)
        return reading
    parts: list[tuple[int, int | Reading]] = []
    for n, part in node.parts:  # a sum looks a term up by itself
        if isinstance(part, Read):
            own: int | Reading = columns.reads[part]
        else:
            own = yield _weighed(n, part, columns)
        parts.append((columns[n], own))
    shift = None if node.shift is None else columns[node.shift]

    def scores(context: Context) -> Tensor:
        total: Tensor | None = None
        excluded: list[Tensor] = []
        for column, part in parts:
            number = context.numbers[column]
            if number.idle:
                continue
            each = (context.reads[part] if isinstance(part, int) else part)(context)
            if not number.positive:
                each, hidden = parted(each)
                excluded.append(torch.where(number.values != 0, hidden, 0.0))
            if total is None:
                total = each if number.one else each * number.values
            else:
                total = total.addcmul(each, number.values)
        if total is None:  # every coefficient is 0 for every row
            total = context.zeros()
        if shift is not None:
            total = total + context.numbers[shift].values
        return sum(excluded, total)

    return scores


@_made.register
def _(node: Staged, columns: Columns) -> Steps[Reading]:
    head = yield _scorer(node.head, columns)

    def after(context: Context) -> Tensor:
        before = context.tokens(head(context))
        return context.padded(chain(before, context, node, node.stages))

    after = yield with_numbers(node, after, columns, _scorer)

    def scores(context: Context) -> Tensor:
        if node not in context.staged:  # a reward model runs once, however often it is written
            with context.only(None):  # kept for every place where it is written
                context.staged[node] = after(context)
        return context.staged[node]

    return scores


@_made.register
def _(node: words.Operator, columns: Columns) -> Steps[Reading]:
    """Every part scored, every number looked up, then the operator's rule over them."""
    if node.own is not None:
        own: Reading = yield _own(node, columns)
        return own
    rule = _RULES[type(node)]
    values = [getattr(node, item.name) for item in fields(node)]
    if isinstance(node, words.Max | words.Min):
        [values] = values
    inner: list[Reading] = []
    for value in values:
        if not isinstance(value, Scalar):
            inner.append((yield _scorer(value, columns)))
    numbers = [columns[value] for value in values if isinstance(value, Scalar)]

    def scores(context: Context) -> Tensor:
        arguments = []
        for part in inner:
            arguments.append(part(context))
        return rule(context, *arguments, *[context.numbers[column].values for column in numbers])

    return scores


def _own(node: words.Operator, columns: Columns) -> Steps[Reading]:
    """The same with a function of one's own, by the names of its parameters."""
    parts, numbers = dict[str, Reading](), dict[str, int]()
    for name in type(node).arguments():
        value = getattr(node, name)
        if isinstance(value, Scalar):
            numbers[name] = columns[value]
        else:
            parts[name] = yield _scorer(value, columns)
    source = ("own", node)

    def scores(context: Context) -> Tensor:
        inner = {}
        for name, part in parts.items():
            inner[name] = context.tokens(part(context))
        values = {name: context.numbers[column].values for name, column in numbers.items()}
        needing = context.needing.get(node)
        result = node.own(context, node, inner, values, needing and needing.rows)
        context.note(source, ~(result.amax(dim=-1) < torch.inf))
        return context.padded(result)

    return scores


@_made.register
def _(node: words.Mix, columns: Columns) -> Steps[Reading]:
    """Where every weight is 0, every token is excluded."""
    parts = yield _all_weighed(node.parts, columns)

    def scores(context: Context) -> Tensor:
        mixed = []
        for column, part in parts:
            if not context.numbers[column].idle:
                weight = context.numbers[column].values.log()
                mixed.append(log_softmax(part(context)).add_(weight))
        return reduce(torch.logaddexp, mixed) if mixed else context.zeros().fill_(-torch.inf)

    return scores


@_made.register
def _(node: words.PowerMean, columns: Columns) -> Steps[Reading]:
    """``log (sum_i w_i exp(p x_i))^(1/p)``, by how far each power is from the largest of them.

    In that way no digits are lost, however close p is to 0. Where the weights add up to W, log(W)/p
    is the same for every token; it is cut where it would swamp the scores. Where every weight is 0,
    every token is excluded.
    """
    parts = yield _all_weighed(node.parts, columns)
    p_column = columns[node.p]

    def scores(context: Context) -> Tensor:
        numbers = [(context.numbers[column], part) for column, part in parts]
        running = [(number, part) for number, part in numbers if not number.idle]
        if not running:
            return context.zeros().fill_(-torch.inf)
        p, weights = context.numbers[p_column].values, [number.values for number, _ in running]
        power = torch.where(p.abs() < LEAST, torch.where(p > 0, LEAST, -LEAST), p)
        powers = []
        for _, part in running:
            powers.append(log_softmax(part(context)).mul_(power))
        for i, (number, _) in enumerate(running):
            if not number.positive:
                powers[i] = torch.where(weights[i] > 0, powers[i], -torch.inf)
        total = sum(weights, torch.zeros_like(p))
        divisor = torch.where(total > 0, total, 1.0)
        largest = reduce(torch.maximum, powers)
        around = largest.clamp(min=LOWEST, max=-LOWEST)
        spread = (powers[0] - around).expm1_().mul_(weights[0] / divisor)
        for weight, each in zip(weights[1:], powers[1:], strict=True):
            spread.addcmul_(each.sub_(around).expm1_(), weight / divisor)
        mean = spread.clamp_(min=-1 + 2**-24).log1p_().add_(largest).div_(power)
        unit = (divisor - 1).abs() < 1e-6  # the weights are float32, and 1 is what was meant
        constant = (divisor.log() / power).clamp_(-FARTHEST, FARTHEST)
        mean.add_(torch.where((p == 0) | unit, 0.0, constant))
        if any(number.positive for number, _ in running):
            return mean
        return torch.where(total > 0, mean, -torch.inf)

    return scores


@_made.register
def _(node: words.Where, columns: Columns) -> Steps[Reading]:
    """Rows that do not take the side in which this stands decide nothing about what is run."""
    holds_of = yield _conditioner(node.condition, columns)
    left: Reading = yield _scorer(node.x, columns)
    right: Reading = yield _scorer(node.y, columns)

    def scores(context: Context) -> Tensor:
        holds = holds_of(context).expand(context.values.shape[0], 1)
        wanted = torch.ones_like(holds) if context.wanted is None else context.wanted
        for_x, for_y = holds & wanted, ~holds & wanted
        any_x = any_y = True
        if context.syncs:
            any_x, any_y = torch.stack((for_x.any(), for_y.any())).tolist()
        if not (any_x or any_y):
            return context.zeros()
        if not (any_x and any_y):
            return (left if any_x else right)(context)
        with context.only(for_x):
            x = left(context)
        with context.only(for_y):
            y = right(context)
        return torch.where(holds, x, y)

    return scores


def _normalised(context: Context, x: Tensor, divisor: Tensor) -> Tensor:
    return log_softmax(x / divisor)


def _plausible(context: Context, x: Tensor, alpha: Tensor) -> Tensor:
    tokens = context.tokens(x)
    return context.padded(from_up(tokens, tokens.amax(dim=-1, keepdim=True) + alpha.log()))


def _debiased(context: Context, x: Tensor, y: Tensor, lam: Tensor) -> Tensor:
    """Schick et al. 2021: a token that y likes better than x does falls, by lam times how much."""
    return log_softmax(x.exp().sub_(y.exp()).clamp_(max=0).mul_(lam).add_(x))


_RULES: dict[type[words.Operator], Callable[..., Tensor]] = {
    words.Max: lambda context, *parts: reduce(torch.maximum, parts),  # excluded where every part is
    words.Min: lambda context, *parts: reduce(torch.minimum, parts),  # excluded where any part is
    words.Mean: _normalised,
    words.Temp: _normalised,
    words.Plausible: _plausible,
    words.Debias: _debiased,
}


def _all_weighed(
    parts: Sequence[tuple[Scalar, Any]], columns: Columns
) -> Steps[list[tuple[int, Reading]]]:
    """The column of each weight, and what gives its part's scores."""
    weighed: list[tuple[int, Reading]] = []
    for weight, part in parts:
        weighed.append((columns[weight], (yield _weighed(weight, part, columns))))
    return weighed


def _weighed(number: Scalar, part: Any, columns: Columns) -> Steps[Reading]:
    """What gives a part's scores, evaluated for the rows that give it a weight."""
    column = columns[number]
    scores: Reading = yield _scorer(part, columns)
    if isinstance(part, Read) or isinstance(number.expression, Constant):
        return scores

    def weighed(context: Context) -> Tensor:
        if not context.numbers[column].splits:
            return scores(context)
        rows = context.numbers[column].values != 0
        with context.only(rows if context.wanted is None else rows & context.wanted):
            return scores(context)

    return weighed


def _conditioner(node: Condition, columns: Columns) -> Steps[Reading]:
    """What gives a condition as ``(slots, 1)`` bool, or one side of a comparison as float."""
    if isinstance(node, Scalar):
        if node.states:
            reading: Reading = yield valuer(node, columns, _scorer)
            return reading
        column = columns[node]
        return lambda context: context.numbers[column].values
    sides: list[Reading] = []
    for part in node.parts:
        sides.append((yield _conditioner(part, columns)))
    operation = _OPERATIONS[node.op]

    def value(context: Context) -> Tensor:
        values = []
        for side in sides:
            values.append(side(context))
        return operation(*values)

    return value


def condition(node: Condition, context: Context) -> Tensor:
    """A condition's value in one step, for those who look into it."""
    return unrolled(_conditioner(node, context.columns))(context)


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "not": torch.logical_not,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "<": torch.lt,
    "<=": torch.le,
    ">": torch.gt,
    ">=": torch.ge,
}
