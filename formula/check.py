"""The checker: every name declared, every operator given what it takes, each mistake at its place.

It runs before any algebra, because spans do not survive sympy. It changes nothing: what passes is
the tree that came in.
"""

from __future__ import annotations

from enum import Enum

from ..grammar import (
    Binary,
    Call,
    FormulaError,
    Name,
    Node,
    Number,
    Pipeline,
    Prompted,
    Span,
    Text,
    Tuple,
    Unary,
    did_you_mean,
    text,
)
from .names import NONE, OPERATORS, SCALAR_FUNCTIONS, STATE, Names
from .stages import STAGES

CONDITIONS = ("not", "and", "or", "<", "<=", ">", ">=")
LATER = "is part of the language, but not available yet"


class Kind(Enum):
    """What an expression is: scores over the vocabulary, or one number."""

    SCORES = "scores"
    SCALAR = "a number"


class Checker:
    """Finds the kind of every expression in one formula, or says what is wrong with it."""

    def __init__(self, source: str, names: Names) -> None:
        self.source, self.names = source, names

    def error(self, problem: str, span: Span, cure: str = "") -> FormulaError:
        """A FormulaError marked in this formula."""
        return FormulaError(problem, self.source, span, cure)

    def kind(self, node: Node) -> Kind:
        """The kind of an expression.

        Raises:
            FormulaError: an undeclared name, an operator over what it does not take, or something
                that cannot stand where it stands.
        """
        match node:
            case Number():
                return Kind.SCALAR
            case Name():
                return self._name(node)
            case Prompted():
                return self._prompted(node)
            case Unary() | Binary() if node.op in CONDITIONS:
                raise self.error(
                    "a condition stands where scores are expected", node.span,
                    "a condition goes first in where(condition, x, y)",
                )  # fmt: skip
            case Unary():
                return self.kind(node.operand)
            case Binary():
                return self._chain(node)
            case Call():
                return self._call(node)
            case Pipeline():
                raise self.error(
                    f"a formula in parentheses with stages of its own {LATER}",
                    node.stages[0].span,
                    "move the stage to the end of the formula",
                )
            case Text():
                raise self.error(
                    "a string stands where scores are expected", node.span,
                    'a system prompt follows a model: base@"You are kind."',
                )  # fmt: skip
            case Tuple():
                raise self.error(
                    "a pair stands where scores are expected", node.span,
                    "pairs are written as arguments, as in clamp=(0, 1)",
                )  # fmt: skip

    def scalar(self, node: Node, what: str) -> None:
        """Check that a node is a number made of numbers and parameters."""
        if self.kind(node) is not Kind.SCALAR:
            raise self.error(
                f"{what} takes a number, and {text(node)} is a model",
                node.span,
                "write a number or a declared parameter",
            )

    def _name(self, node: Name) -> Kind:
        name = node.name
        if name in self.names.params:
            return Kind.SCALAR
        if name in STATE:
            raise self.error(f"{name} {LATER}: it goes into the condition of where()", node.span)
        if name == NONE:
            raise self.error(
                "none is not a model", node.span, "model@none is a model that sees no prompt"
            )
        if name in SCALAR_FUNCTIONS or name in OPERATORS:
            raise self.error(
                f"{name} needs its arguments", node.span, f"write {name}(…) with what it works on"
            )
        if name in STAGES:
            raise self.error(f"{name} is a stage", node.span, f"stages follow a bar: … | {name}(…)")
        if self.names.is_model(name):
            return Kind.SCORES
        if name in self.names.prompts:
            raise self.error(
                f"{name} is a prompt", node.span, f"a prompt follows a model: base@{name}"
            )
        raise self.error(f"{name} is not declared", node.span, did_you_mean(name, self.names.all()))

    def _prompted(self, node: Prompted) -> Kind:
        if self._name(node.model) is not Kind.SCORES:
            raise self.error(
                f"{node.model.name} is a parameter, and only a model can have a prompt",
                node.model.span,
            )
        if isinstance(node.prompt, Name):
            prompt = node.prompt.name
            if prompt != NONE and prompt not in self.names.prompts:
                known = {*self.names.prompts, NONE}
                raise self.error(
                    f"no prompt is named {prompt}", node.prompt.span, did_you_mean(prompt, known)
                )
        return Kind.SCORES

    def _chain(self, node: Binary) -> Kind:
        """``a + b + c`` however long: down the left without recursion."""
        spine = [node]
        while isinstance(spine[-1].left, Binary):
            spine.append(spine[-1].left)
        kind = self.kind(spine[-1].left)
        for binary in reversed(spine):
            kind = self._binary(binary, kind, self.kind(binary.right))
        return kind

    def _binary(self, node: Binary, left: Kind, right: Kind) -> Kind:
        if node.op in CONDITIONS:
            return self.kind(node)
        scores = (left is Kind.SCORES, right is Kind.SCORES)
        if not any(scores):
            return Kind.SCALAR
        if node.op in "+-":
            return Kind.SCORES
        if node.op == "*" and not all(scores):
            return Kind.SCORES
        if node.op == "/" and scores == (True, False):
            return Kind.SCORES
        both = f"{text(node.left)} + {text(node.right)}"
        if node.op == "*":
            raise self.error(
                "a formula may scale a model, not multiply two models", node.span,
                f"write {both} to combine them",
            )  # fmt: skip
        if node.op == "/":
            raise self.error(
                "a formula may divide a model by a number, not by a model", node.span,
                f"write {text(node.left)} - {text(node.right)} for a ratio of probabilities",
            )  # fmt: skip
        raise self.error(
            "a formula may not raise a model to a power", node.span,
            f"{text(node.right)}*{text(node.left)} raises its probabilities to that power"
            if scores == (True, False) else "the exponent must be a number",
        )  # fmt: skip

    def _call(self, node: Call) -> Kind:
        name = node.function.name
        if name in STAGES and name not in OPERATORS:
            raise self.error(
                f"{name} is a stage, not an operator", node.span,
                f"stages follow a bar: … | {name}(…)",
            )  # fmt: skip
        if name not in SCALAR_FUNCTIONS and name not in OPERATORS:
            functions = {*SCALAR_FUNCTIONS, *OPERATORS}
            known = self.names.is_model(name) or name in self.names.params
            cure = f"{name} takes no arguments" if known else did_you_mean(name, functions)
            raise self.error(f"there is no operator {name}", node.function.span, cure)
        if name not in SCALAR_FUNCTIONS:
            raise self.error(f"{name}(…) {LATER}", node.span)
        return self._function(node)

    def _function(self, node: Call) -> Kind:
        name = node.function.name
        for argument in node.arguments:
            if argument.name is not None or argument.weight is not None:
                raise self.error(f"{name} takes plain arguments", argument.span)
            if self.kind(argument.value) is Kind.SCORES:
                if name in OPERATORS:
                    raise self.error(f"{name}(…) of scores {LATER}", node.span)
                raise self.error(
                    f"{name} takes numbers, and {text(argument.value)} is a model",
                    argument.span,
                )
        least, most = SCALAR_FUNCTIONS[name]
        if not least <= len(node.arguments) <= most:
            wanted = "one number" if most == 1 else "two numbers or more"
            raise self.error(f"{name} takes {wanted}, not {len(node.arguments)}", node.span)
        return Kind.SCALAR
