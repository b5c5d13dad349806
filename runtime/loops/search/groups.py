"""The groups of requests, by the stage that searches."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from ....formula import Scalar
from ....formula.words import stages
from ....grammar import FormulaError, Span
from ...binding.bound import Bound
from ...requests.answer import answer_to
from ...requests.request import Request
from .best_of import BestOf
from .blocks import Blocks
from .group import Group
from .lookahead import candidates_of
from .particles import Particles
from .segment_rows import SegmentRows, row_key
from .segments import Rule, Segments


def group_of(request: Request, bound: Bound) -> Group:
    """The rows of a request, by the numbers that it gives the stage that searches."""
    plan, (_, stage) = bound.plan, bound.plan.search or (None, None)
    error = partial(_error, bound)

    def number(name: str, without: Any = math.inf) -> Any:
        scalar: Scalar | None = getattr(stage, name, None)
        return without if scalar is None else request.values[plan.columns[scalar]]

    def rows(count: float, length: float = math.inf) -> SegmentRows:
        high, low = request.key
        seed = (high << 32) ^ low
        until = getattr(stage, "until", None)
        text = until.value if until else ""
        each = [replace(request, key=row_key(seed, 0, row)) for row in range(int(count))]
        answers = [answer_to(own, bound, 0.0, text) for own in each]
        return SegmentRows(answers, seed, length, bool(until))

    match stage:
        case stages.BestOf():
            every = int(number("every"))
            return BestOf(rows(number("n")), number("beta", None), number("keep"), every, error)
        case stages.Blockwise():
            count = number("beams") * number("samples")
            return Blocks(rows(count, number("length")), int(number("beams")))
        case stages.Reject():
            names = ("target", "beta", "alpha", "retries")
            rule = Rule(**{name: number(name) for name in names})
            return Segments(rows(number("samples"), number("longest")), rule, number("shortest"))
        case stages.Particles():
            own = rows(number("n"), number("length"))
            return Particles(own, number("ess"), stage.pick == "best", error)
        case stages.Lookahead():
            return candidates_of(request, bound)
    raise TypeError(f"no group for {plan.search}")


def _error(bound: Bound, problem: str) -> FormulaError:
    """The error of values that a search cannot use, which marks the first model of its reward."""
    plan = bound.plan
    spans = [plan.spans[term] for term in plan.search_terms]
    return plan.error(problem, min(spans, default=Span(0, len(plan.source))))
