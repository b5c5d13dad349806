"""Conditions: comparisons of numbers and scalars of the state, joined by and, or and not."""

from __future__ import annotations

from typing import Any, Protocol

from ...grammar import Binary, Call, FormulaError, Name, Node, Span, Unary, text
from ...grammar.stop import COMPARISONS
from ..names import SCALAR_FUNCTIONS, STATE

CONDITIONS = ("not", "and", "or", *COMPARISONS)
FUNCTIONS = ("abs", "exp", "log", "max", "min", "sqrt")  # of the state; not those of extensions


class Checker(Protocol):
    """The part of the checker that conditions need."""

    def kind(self, node: Node) -> Any:
        """The kind of an expression."""

    def scores(self, node: Node, what: str) -> None:
        """Check that a node is scores."""

    def plain_arguments(self, node: Call) -> list[Node]:
        """The arguments of a scalar function, as many as it takes."""

    def error(self, problem: str, span: Span, cure: str = "") -> FormulaError:
        """An error marked in the formula."""


def check_condition(checker: Checker, node: Node) -> None:
    """Check that a node is a condition: comparisons, joined by and, or and not."""
    match node:
        case Unary(op="not"):
            check_condition(checker, node.operand)
        case Binary(op="and" | "or"):
            check_condition(checker, node.left)
            check_condition(checker, node.right)
        case Binary(op=op) if op in COMPARISONS:
            _state(checker, node.left)
            _state(checker, node.right)
        case _:
            raise checker.error(
                f"{text(node)} is not a condition", node.span,
                "compare: step < 2, entropy(base) > 1, max_prob(base) < 0.4",
            )  # fmt: skip


def has_state(node: Node) -> bool:
    """Whether a side of a comparison depends on more than parameters."""
    match node:
        case Name(name):
            return name == "step"
        case Call(function, arguments):
            if function.name in SCALAR_FUNCTIONS:
                return any(has_state(argument.value) for argument in arguments)
            return function.name in STATE
        case Unary():
            return has_state(node.operand)
        case Binary():
            return has_state(node.left) or has_state(node.right)
    return False


def _state(checker: Checker, node: Node) -> None:
    """Check one side of a comparison: numbers and scalars of the state."""
    match node:
        case Name(name="step"):
            return
        case Call(function=Name(name="entropy" | "max_prob" as name)):
            values = node.arguments
            if len(values) != 1 or values[0].name is not None or values[0].weight is not None:
                raise checker.error(f"{name} takes scores", node.span, f"write {name}(base)")
            checker.scores(values[0].value, name)
        case Unary(op="-" | "+"):
            _state(checker, node.operand)
        case Binary(op=op) if op not in CONDITIONS:
            _state(checker, node.left)
            _state(checker, node.right)
        case Call(function=Name(name=name)) if name in FUNCTIONS and has_state(node):
            for part in checker.plain_arguments(node):
                _state(checker, part)
        case Call(function=Name(name=name)) if name in SCALAR_FUNCTIONS and has_state(node):
            raise checker.error(
                f"{name} is worked out before a step, and {text(node)} changes with it", node.span,
                f"of the state there are {', '.join(FUNCTIONS)}",
            )  # fmt: skip
        case _:
            if checker.kind(node).value == "scores":
                shown = text(node)
                raise checker.error(
                    f"a condition compares numbers, and {shown} is scores", node.span,
                    f"compare entropy({shown}) or max_prob({shown})",
                )  # fmt: skip
