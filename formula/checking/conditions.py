"""Conditions: comparisons of numbers, also those of the state, joined by and, or and not."""

from __future__ import annotations

from collections.abc import Callable

from ...grammar import Binary, Node, Unary, text
from ...grammar.errors import Marked
from ...grammar.stop import COMPARISONS
from ...grammar.unrolled import Steps

CONDITIONS = ("not", "and", "or", *COMPARISONS)


class ConditionChecker(Marked):
    """Checks conditions; its subclass checks the expressions that they compare."""

    is_scores: Callable[[Node], Steps[bool]]

    def condition(self, node: Node) -> Steps[None]:
        """Check that a node is a condition: comparisons, joined by and, or and not."""
        match node:
            case Unary(op="not"):
                yield self.condition(node.operand)
            case Binary(op="and" | "or"):
                yield self.condition(node.left)
                yield self.condition(node.right)
            case Binary(op=op) if op in COMPARISONS:
                yield self._compared(node.left)
                yield self._compared(node.right)
            case _:
                cure = "compare: step < 2, entropy(base) > 1, max_prob(base) < 0.4"
                raise self.error(f"{text(node)} is not a condition", node.span, cure)

    def _compared(self, node: Node) -> Steps[None]:
        """Check one side of a comparison: a number."""
        if (yield self.is_scores(node)):
            problem = f"a condition compares numbers, and {text(node)} is scores"
            cure = f"compare entropy({text(node)}) or max_prob({text(node)})"
            raise self.error(problem, node.span, cure)
