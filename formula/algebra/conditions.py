"""Conditions: comparisons of numbers and scalars of the state, joined by and, or and not."""

from __future__ import annotations

from collections.abc import Callable

from ...grammar import Binary, Call, Name, Node, Unary, text
from ...grammar.errors import Marked
from ...grammar.stop import COMPARISONS
from ...grammar.unrolled import Steps
from ..names import SCALAR_FUNCTIONS, STATE

CONDITIONS = ("not", "and", "or", *COMPARISONS)
FUNCTIONS = ("abs", "exp", "log", "max", "min", "sqrt")  # of the state; not those of extensions


def has_state(node: Node) -> bool:
    """Whether a side of a comparison depends on more than parameters."""
    todo = [node]
    while todo:
        match todo.pop():
            case Name("step"):
                return True
            case Call(function, arguments) if function.name in SCALAR_FUNCTIONS:
                todo += [argument.value for argument in arguments]
            case Call(function) if function.name in STATE:
                return True
            case Unary(_, operand):
                todo.append(operand)
            case Binary(_, left, right):
                todo += [right, left]
    return False


class ConditionChecker(Marked):
    """Checks conditions; its subclass checks the expressions that they compare."""

    is_scores: Callable[[Node], Steps[bool]]
    scores: Callable[[Node, str], Steps[None]]
    plain_arguments: Callable[[Call], list[Node]]

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
        """Check one side of a comparison: numbers and scalars of the state."""
        match node:
            case Name(name="step"):
                return
            case Call(Name("entropy" | "max_prob" as name), values):
                if len(values) != 1 or values[0].name is not None or values[0].weight is not None:
                    raise self.error(f"{name} takes scores", node.span, f"write {name}(base)")
                yield self.scores(values[0].value, name)
            case Unary(op="-" | "+"):
                yield self._compared(node.operand)
            case Binary(op=op) if op not in CONDITIONS:
                yield self._compared(node.left)
                yield self._compared(node.right)
            case Call(Name(name)) if name in FUNCTIONS and has_state(node):
                for part in self.plain_arguments(node):
                    yield self._compared(part)
            case Call(Name(name)) if name in SCALAR_FUNCTIONS and has_state(node):
                problem = f"{name} is worked out before a step, and {text(node)} changes with it"
                cure = f"of the state there are {', '.join(FUNCTIONS)}"
                raise self.error(problem, node.span, cure)
            case _ if (yield self.is_scores(node)):
                problem = f"a condition compares numbers, and {text(node)} is scores"
                cure = f"compare entropy({text(node)}) or max_prob({text(node)})"
                raise self.error(problem, node.span, cure)
