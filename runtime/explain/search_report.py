"""What a search costs beside its forwards, as a line of the plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...formula import Plan
from ...formula.scalar import parameters
from ...formula.words.stages import BestOf, Blockwise, Lookahead, Particles, Reject

NEW = 128  # tokens of an answer for which costs are stated: ``generate``'s own number


def search_lines(plan: Plan, params: Mapping[str, float]) -> list[str]:
    """A line on the search that a plan ends in; none where there is none."""
    _, stage = plan.search or (None, None)

    def number(name: str) -> Any:
        """A number of the stage; None where it has none, or a parameter without a value."""
        scalar = getattr(stage, name, None)
        if scalar is None or not parameters(scalar.expression) <= params.keys():
            return None
        return plan.value(scalar, params)

    match stage:
        case BestOf():
            text = _dropping(number("n"), number("keep"), number("every"))
        case Blockwise():
            each = _segments(stage.until, number("length"))
            text = f"{_rows(number('beams'), number('samples'))}, valued {each}"
        case Reject():
            where = "where the scores are unsure" if stage.entropy else ""
            ends = " or ".join(filter(None, (where, _until(stage.until))))
            text = f"{_rows(number('samples'))}, valued {ends or 'after each segment'}"
        case Particles():
            text = f"{_rows(number('n'))}, weighed {_segments(stage.until, number('length'))}"
        case Lookahead():
            ahead = number("ahead")
            steps = "as many" if ahead is None else int(1 + ahead)
            text = f"{_rows(number('k'))}, valued after each {steps} tokens, of which one stays"
        case _:
            return []
    return [f"search      {text}"]


def _dropping(n: float | None, keep: float | None, every: float | None) -> str:
    """The rows of ``best_of`` in each stretch of tokens, and what they read together."""
    if n is None or keep is None or every is None:
        return "as many rows as its parameters say"
    rows = [int(n)]
    while (stay := max(1, math.ceil(keep * rows[-1] - 1e-9))) < rows[-1]:
        if len(rows) * every >= NEW:
            break
        rows.append(stay)
    if len(rows) == 1:
        return f"{_rows(n)}, valued once, at the end"
    lengths = [int(every)] * (len(rows) - 1)
    total = sum(row * each for row, each in zip(rows, [*lengths, NEW - sum(lengths)], strict=True))
    many = ", ".join(f"{row} after {int(i * every)}" for i, row in enumerate(rows[1:], 1))
    of = f"{total:,} row-tokens of {int(n) * NEW:,} in answers of {NEW} tokens"
    return f"{_rows(n)}, {many} tokens: {of}"


def _rows(*factors: float | None) -> str:
    if None in factors:
        return "as many rows as its parameters say"
    rows = math.prod(int(factor or 0) for factor in factors)
    return f"{rows} row{'' if rows == 1 else 's'}"


def _segments(until: Any, length: float | None) -> str:
    """After what, and how often in an answer where that is known."""
    if length is None:
        return _until(until) or "after each segment"
    ends = f"after each {int(length)} tokens"
    if until is not None:
        return f"{_until(until)} or {ends}"
    return f"{ends}: {math.ceil(NEW / length)} times in answers of {NEW} tokens"


def _until(until: Any) -> str:
    return "" if until is None else f"where {until.value!r} ends"
