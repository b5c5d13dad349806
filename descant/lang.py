"""Formulas written with Python's operators: the same trees that the parser makes.

>>> from descant.lang import model, param, rerank
>>> formula = model("base") + param("a")*model("arm") | rerank("reward", k=10)
>>> str(formula)
'base + a*arm | rerank(reward, k=10)'
>>> formula == "base + a*arm | rerank(reward, k=10)"
True

Only values are checked here; ``compile`` checks the rest, and marks mistakes in the formula's text.
"""

from __future__ import annotations

import builtins  # this module has an abs, a min and a max of its own
from collections.abc import Callable
from fractions import Fraction
from json import dumps
from numbers import Rational, Real
from typing import Any

from .errors import ArgumentError, ArgumentTypeError
from .formula import STAGES
from .formula.names import ANSWER_LENGTH, NOIMAGE, SCALAR_FUNCTIONS, STATE
from .formula.words.constraints import ConstraintStage
from .formula.words.operators import OPERATORS, STAGED
from .grammar import parse, text, tree

_LOGIC = ("and", "or", "not", "<", "<=", ">", ">=")


def _operator(op: str, *, swapped: bool = False) -> Callable[[Any, Any], Expression]:
    """A method for one of Python's operators."""

    def binary(self: Any, other: Any) -> Expression:
        left, right = (other, self) if swapped else (self, other)
        return Expression(tree.Binary(op, _node(left), _node(right)))

    return binary


def _prefix(op: str) -> Callable[[Any], Expression]:
    """A method for one of Python's operators before a value."""
    return lambda self: Expression(tree.Unary(op, self.node))


class Expression:
    """A piece of a formula: a model, a number, a condition, a stage, or a combination.

    ``str()`` gives the formula; ``==`` compares with another expression or with a formula's text.
    """

    __slots__ = ("node",)

    def __init__(self, node: tree.Node) -> None:
        self.node = node

    def __str__(self) -> str:
        return text(self.node)

    def __repr__(self) -> str:
        return f"<formula {self}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            other = Expression(parse(other))
        return isinstance(other, Expression) and self.node == other.node

    def __hash__(self) -> int:
        return hash(self.node)

    def __bool__(self) -> bool:
        raise ArgumentTypeError("a formula is neither true nor false; join conditions with & | ~")

    def __matmul__(self, prompt: str | Expression | None) -> Expression:
        """``model("chat") @ "You are kind."``; None sees no prompt; a declared one is a name.

        ``noimage`` follows a model, or its prompt: ``model("vlm") @ "Be brief." @ noimage``.
        """
        node = tree.Name("none") if prompt is None else _node(prompt)
        last = node == noimage.node and isinstance(self.node, tree.Prompted)
        if last and self.node.prompt != noimage.node:  # type: ignore[union-attr]
            return Expression(tree.Prompted(self.node, noimage.node))  # type: ignore[arg-type]
        if not isinstance(self.node, tree.Name | tree.Added):
            cure = f"write (model @ …) in brackets, not {self} @ …"
            raise ArgumentTypeError(f"a prompt follows a model: {cure}")
        if not isinstance(node, (tree.Name, tree.Text)):
            raise ArgumentTypeError(f"{prompt} is not the name of a prompt")
        return Expression(tree.Prompted(self.node, node))

    def __getitem__(self, additions: Expression) -> Expression:
        """``model("base")[0.5*model("arm")]``: its weights with others added to them."""
        if not isinstance(self.node, tree.Name):
            raise ArgumentTypeError(f"brackets follow a model, and {self} is none")
        return Expression(tree.Added(self.node, _node(additions)))

    __iter__ = None  # or Python would look for items one by one

    def __or__(self, other: Any) -> Expression:
        """A stage on the right continues the chain; two conditions are joined by or."""
        right = _node(other)
        if isinstance(right, tree.Call) and right.function.name in STAGES:
            if isinstance(self.node, tree.Pipeline):
                return Expression(tree.Pipeline(self.node.head, (*self.node.stages, right)))
            return Expression(tree.Pipeline(self.node, (right,)))
        if not (_is_condition(self.node) and _is_condition(right)):
            raise ArgumentTypeError(f"| takes a stage on its right, and {text(right)} is none")
        return Expression(tree.Binary("or", self.node, right))

    __invert__, __neg__, __pos__ = _prefix("not"), _prefix("-"), _prefix("+")
    __and__ = _operator("and")
    __add__, __radd__ = _operator("+"), _operator("+", swapped=True)
    __sub__, __rsub__ = _operator("-"), _operator("-", swapped=True)
    __mul__, __rmul__ = _operator("*"), _operator("*", swapped=True)
    __truediv__, __rtruediv__ = _operator("/"), _operator("/", swapped=True)
    __pow__, __rpow__ = _operator("**"), _operator("**", swapped=True)
    __lt__, __le__ = _operator("<"), _operator("<=")
    __gt__, __ge__ = _operator(">"), _operator(">=")


def _is_condition(node: tree.Node) -> bool:
    return isinstance(node, (tree.Unary, tree.Binary)) and node.op in _LOGIC


def _node(value: Any, names: bool = False) -> tree.Node:
    """The node of a value; with ``names``, a string is a formula, as in ``rerank("reward")``."""
    match value:
        case Expression():
            return value.node
        case bool():
            raise ArgumentTypeError(f"{value} is not a number of a formula")
        case str():
            return parse(value) if names else tree.Text(value)
        case dict():
            return tree.Mapping(tuple(_entry(key, each) for key, each in value.items()))
        case tuple():
            return tree.Tuple(tuple(_node(item) for item in value))
        case Rational():
            number = tree.Number(builtins.abs(Fraction(value)))
        case Real():
            number = tree.Number(builtins.abs(Fraction(repr(float(value)))))
        case _:
            raise ArgumentTypeError(f"{value!r} cannot stand in a formula")
    return tree.Unary("-", number) if value < 0 else number


def _entry(token: Any, value: Any) -> tree.Entry:
    """A token id with its number: ``logit_bias({50256: -100})``."""
    if isinstance(token, bool) or not isinstance(token, Rational) or token < 0:
        raise ArgumentTypeError(f"{token!r} is not a token id, as in logit_bias({{50256: -100}})")
    return tree.Entry(tree.Number(Fraction(token)), _node(value))


def model(name: str) -> Expression:
    """A declared model."""
    if not (name.isidentifier() and name.isascii()):
        raise ArgumentError(f"{name!r} is not a name; a name is letters, digits and underscores")
    return Expression(tree.Name(name))


param = prompt = model
param.__doc__ = "A declared model, parameter or prompt."
step, thinking = Expression(tree.Name("step")), Expression(tree.Name("thinking"))
answer_length = Expression(tree.Name(ANSWER_LENGTH))
noimage = Expression(tree.Name(NOIMAGE))  # model("vlm") @ noimage


def _text(value: Any) -> Any:
    """A schema as JSON; what else a constraint takes is text, or a declared name."""
    return dumps(value) if isinstance(value, dict) else value


def _call(name: str) -> Callable[..., Expression]:
    known = {**STAGES, **OPERATORS}.get(name)
    constrains = known is not None and issubclass(known, ConstraintStage)
    chain = name in STAGES and name not in STAGED and not constrains

    def call(*values: Any, **named: Any) -> Expression:
        arguments = [
            tree.Argument(_node(value[1]), weight=_node(value[0]))
            if isinstance(value, tuple) and name in ("mix", "pmean")
            else tree.Argument(_node(value if not constrains else _text(value), chain and i == 0))
            for i, value in enumerate(values)
        ]
        for key, value in named.items():
            names = key in ("norm", "keep", "reward", "r", "pick")
            arguments.append(tree.Argument(_node(value, names), name=tree.Name(key)))
        return Expression(tree.Call(tree.Name(name), tuple(arguments)))

    call.__name__ = call.__qualname__ = name
    call.__doc__ = known.__doc__ if known is not None else f"``{name}`` of a formula."
    return call


def __getattr__(name: str) -> Callable[..., Expression]:
    """The operators, stages and functions of one's own, which come later."""
    if name not in {**STAGES, **OPERATORS, **SCALAR_FUNCTIONS}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _call(name)


_CALLS = (*SCALAR_FUNCTIONS, *OPERATORS, *STAGES, *(name for name, of in STATE.items() if of))
for _name in _CALLS:
    globals()[_name] = _call(_name)
__all__ = [
    *("Expression", "model", "param", "prompt"),
    *("answer_length", "noimage", "step", "thinking", *_CALLS),
]
