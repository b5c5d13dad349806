"""The check of a formula while it is typed: its mistake and where, or its parameters.

It reads text and names, and neither weights nor HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import DescantError
from ...formula import Names, Plan, make_plan
from ...formula.names import is_word
from ...formula.scalar import Parameter
from ...grammar import FormulaError

MIN_STEPS = 50  # of a slider


def check_formula(
    text: str, names: Names, defaults: Mapping[str, float], params: Mapping[str, float]
) -> dict[str, Any]:
    """Check a formula.

    Args:
        text: the formula.
        names: that it may use.
        defaults: the value of each parameter of ``names``.
        params: values over these.

    Returns:
        ``params``, a slider for each parameter that it uses, where it compiles; and ``error``
        where anything is wrong, with its span in UTF-16 units, as browsers count.

    >>> names = Names(frozenset(("base", "arm")), frozenset("a"))
    >>> check_formula("base + a*arm", names, {"a": 0.5}, {})
    {'params': [{'name': 'a', 'value': 0.5, 'low': 0.0, 'high': 1.0, 'step': 0.01}]}
    >>> check_formula("base + arn", names, {"a": 0.5}, {})["error"]["cure"]
    'did you mean arm?'
    """
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    checked: dict[str, Any] = {}
    try:
        plan = make_plan(text, names)
        checked["params"] = [slider(plan, name, defaults[name]) for name in sorted(plan.params)]
        plan.values({**defaults, **params})
    except FormulaError as error:
        offsets = (error.span.start, error.span.end)
        start, end = (len(error.text[:at].encode("utf-16-le")) // 2 for at in offsets)
        mark = {"problem": error.problem, "cure": error.cure, "start": start, "end": end}
        declare = {} if "params" in checked else {"declare": _undeclared(error, names)}
        checked["error"] = {**mark, **declare}
    return checked


def slider(plan: Plan, name: str, default: float) -> dict[str, Any]:
    """A parameter's range: the limits of the arguments that it is alone, else a guess.

    >>> names = Names(frozenset(("base",)), frozenset("p"))
    >>> slider(make_plan("base | top_p(p)", names), "p", 0.9)
    {'name': 'p', 'value': 0.9, 'low': 0.01, 'high': 1.0, 'step': 0.01}
    """
    limits = [scalar.limits for scalar in plan.scalars if scalar.expression == Parameter(name)]
    low = max((limit.low for limit in limits), default=-math.inf)
    high = min((limit.high for limit in limits), default=math.inf)
    integer = any(limit.integer for limit in limits)
    above = any(limit.above and limit.low == low for limit in limits)
    if not math.isfinite(high):
        high = max((low if math.isfinite(low) else 0) + (10 if integer else 1), 2 * default)
    if not math.isfinite(low):
        low = min(0.0, high - 1, 2 * default)
    step = 1.0 if integer else 10.0 ** math.floor(math.log10(max(high - low, 1e-9) / MIN_STEPS))
    low = float(low + (step if above else 0))
    return {"name": name, "value": default, "low": low, "high": float(high), "step": step}


def _undeclared(error: FormulaError, names: Names) -> str | None:
    """The name under the caret, where declaring it as a parameter mends this mistake."""
    name = error.text[error.span.start : error.span.end]
    if is_word(name):  # whose arguments are forgotten
        return None
    try:
        make_plan(error.text, replace(names, params=names.params | {name}))
    except FormulaError as other:
        return name if other.span.start > error.span.start else None
    except DescantError:  # not a parameter's name
        return None
    return name
