"""What a formula adds to a model's weights: a sum in brackets, ``base[0.5*arm + 2*honest]``."""

from __future__ import annotations

from collections.abc import Callable

from ...grammar import Added, Binary, Name, Node, Unary, text
from ...grammar.errors import Marked
from ...grammar.unrolled import Steps


class AdditionChecker(Marked):
    """Checks weighted additions; its subclass checks the expressions in them."""

    name: Callable[[Name], bool]
    is_scores: Callable[[Node], Steps[bool]]
    scalar: Callable[..., Steps[None]]

    def added(self, node: Added) -> Steps[None]:
        """Check what is added to a model's weights."""
        if not self.name(node.model):
            problem = f"{node.model.name} is a parameter, and only a model has weights to add to"
            raise self.error(problem, node.model.span)
        yield self._addition(node.additions)

    def _addition(self, node: Node) -> Steps[None]:
        """Check a sum of declared names, each times a number that is known before a step."""
        match node:
            case Unary("-" | "+", operand):
                yield self._addition(operand)
                return
            case Binary("+" | "-", left, right):
                yield self._addition(left)
                yield self._addition(right)
                return
            case Binary("*" | "/", left, right):
                if (yield self.is_scores(left)) and not (yield self.is_scores(right)):
                    number, what = right, left
                elif node.op == "*" and (yield self.is_scores(right)):
                    number, what = left, right
                else:
                    yield self.is_scores(node)  # an error of its own, if it is one
                    number = what = node
                if what is not node:
                    yield self.scalar(number, "a weight in brackets", static=True)
                    yield self._addition(what)
                    return
            case Name():
                if self.name(node):
                    return
        problem = f"{text(node)} is not an adapter or a steering vector"
        cure = "write a sum of those, each times a number: base[0.5*arm + 2*honest]"
        raise self.error(problem, node.span, cure)
