"""Weighted sums of names, in the language of formulas: ``(1-a)*help + a*harm``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import ArgumentError
from ..formula import Names, Plan, make_plan
from ..formula.nodes import Read
from ..formula.terms import Term


class Sum:
    """A weighted sum of some of the names.

    Raises:
        FormulaError: the sum is wrong, with a caret; ValueError: it is more than a sum.

    >>> Sum("(1-a)*help + a*harm", ["help", "harm"], ["a"]).weights({"a": 0.25})
    {'harm': 0.25, 'help': 0.75}
    """

    def __init__(self, text: str, names: Iterable[str], params: Iterable[str]) -> None:
        self._plan: Plan = make_plan(text, Names(frozenset(names), frozenset(params)))
        scores = self._plan.scores
        plain = all(isinstance(p, Read) and p.term == Term(p.term.model) for _, p in scores.parts)
        if self._plan.stages or scores.shift is not None or not plain:
            raise ArgumentError(f"{text} is more than a sum of names with weights")
        self._parts = [(s, p.term.model) for s, p in scores.parts if isinstance(p, Read)]
        self.names = tuple(name for _, name in self._parts)  # without those that cancel out
        self.params = self._plan.params  # that any weight depends on

    def weights(self, params: Mapping[str, float]) -> dict[str, float]:
        """Each name's weight."""
        self._plan.values(params)
        return {name: self._plan.value(scalar, params) for scalar, name in self._parts}
