"""A formula while it is typed: what is wrong with it and where, or which parameters it has.

It reads text and names, and no weights; it knows no HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...formula import Names, Plan, make_plan
from ...formula.scalar import Parameter
from ...grammar import FormulaError

STEPS = 50  # a slider has at least so many


def draft(
    text: str, names: Names, defaults: Mapping[str, float], params: Mapping[str, float]
) -> dict[str, Any]:
    """What is to be said of a formula.

    Args:
        text: the formula.
        names: what its names may be.
        defaults: the value of each parameter of ``names``.
        params: the values that are asked for, of some of them or others.

    Returns:
        ``params``, a slider for each parameter that it uses, where it is a formula; and ``error``
        where anything is wrong, with its place in UTF-16 units, as browsers count.

    >>> draft("base + a*arm", Names(frozenset(("base", "arm")), frozenset("a")), {"a": 0.5}, {})
    {'params': [{'name': 'a', 'value': 0.5, 'low': 0.0, 'high': 1.0, 'step': 0.01}]}
    >>> draft("base + arn", Names(frozenset(("base", "arm"))), {}, {})["error"]["cure"]
    'did you mean arm?'
    """
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    try:
        plan = make_plan(text, names)
    except FormulaError as error:
        return {"error": {**told(error), "declare": _missing(error, names)}}
    sliders = [slider(plan, name, defaults[name]) for name in sorted(plan.params)]
    try:
        plan.values({**defaults, **params})
    except FormulaError as error:
        return {"params": sliders, "error": told(error)}
    return {"params": sliders}


def told(error: FormulaError) -> dict[str, Any]:
    """An error with its place, counted as browsers count."""
    start, end = (_units(error.text[:at]) for at in (error.span.start, error.span.end))
    return {"problem": error.problem, "cure": error.cure, "start": start, "end": end}


def slider(plan: Plan, name: str, default: float) -> dict[str, Any]:
    """A range for a parameter: its limits, where it stands alone as a number that has some.

    >>> names = Names(frozenset(("base",)), frozenset("p"))
    >>> slider(make_plan("base | top_p(p)", names), "p", 0.9)
    {'name': 'p', 'value': 0.9, 'low': 0.01, 'high': 1.0, 'step': 0.01}
    """
    alone = [one.limits for one in plan.scalars if one.expression == Parameter(name)]
    low = max((one.low for one in alone), default=-math.inf)
    high = min((one.high for one in alone), default=math.inf)
    whole = any(one.integer for one in alone)
    above = any(one.above and one.low == low for one in alone)
    if not math.isfinite(high):
        high = max((low if math.isfinite(low) else 0) + (10 if whole else 1), 2 * default)
    if not math.isfinite(low):
        low = min(0.0, high - 1, 2 * default)
    step = 1.0 if whole else 10.0 ** math.floor(math.log10(max(high - low, 1e-9) / STEPS))
    low = float(low + (step if above else 0))
    return {"name": name, "value": default, "low": low, "high": float(high), "step": step}


def _missing(error: FormulaError, names: Names) -> str | None:
    """The name that would be no mistake, here, if it were a parameter."""
    name = error.text[error.span.start : error.span.end]
    try:
        make_plan(error.text, Names(names.models, names.params | {name}, names.prompts))
    except FormulaError as other:
        return name if other.span.start > error.span.start else None
    except ValueError:  # nothing that a parameter could be named
        return None
    return name


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2
