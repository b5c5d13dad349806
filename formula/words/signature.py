"""Signatures: the fields of a class are the arguments of its stage or operator.

A field has an argument's name, kind, default and limits, in the order of writing. The checker, the
planner, the reports and the docs read them here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, TypeVar


@dataclass(frozen=True)
class Limits:
    """The values that a number may have: ``low`` to ``high``, without ``low`` where ``above``.

    A number of ``tokens`` is at most the size of the vocabulary.
    """

    low: float = -float("inf")
    high: float = float("inf")
    above: bool = False
    integer: bool = False
    tokens: bool = False

    def problem(self, value: float) -> str | None:
        """What is wrong with the value, or None."""
        if self.integer and value != int(value):
            return "must be a whole number"
        if value < self.low or (self.above and value == self.low):
            return f"must be {'above' if self.above else 'at least'} {self.low:g}"
        if value > self.high:
            return f"must be at most {self.high:g}"
        return None


class Shift(Enum):
    """The effect on a value of one number added to all the scores that it is made of."""

    PASSED = "a number is added to every score of the value too"
    ABSORBED = "the value does not change"
    FELT = "the value changes in other ways: the scores must be log-probabilities"


@dataclass(frozen=True)
class Signature:
    """A stage or an operator with its arguments. Subclasses declare the arguments as fields."""

    name: ClassVar[str]
    on_shift: ClassVar[Shift] = Shift.FELT

    @classmethod
    def arguments(cls) -> dict[str, Field[Any]]:
        """The arguments by name, in the order in which they may be written."""
        return {item.name: item for item in fields(cls) if item.metadata["kind"] != "derived"}

    @classmethod
    def required(cls) -> list[str]:
        """The arguments that have no default."""
        return [name for name, item in cls.arguments().items() if item.default is MISSING]


C = TypeVar("C", bound=type[Signature])


def register(name: str, table: dict[str, Any]) -> Callable[[C], C]:
    """Enter a class into its table under the name that formulas use."""

    def enter(cls: C) -> C:
        cls.name = name
        table[name] = cls
        return cls

    return enter


def number(limits: Limits | None = None, default: float | None = None) -> Any:
    """A field that holds a number: a ``Scalar`` once planned."""
    meta = {"kind": "number", "limits": limits or Limits(), "default": default}
    return field(metadata=meta) if default is None else field(default=default, metadata=meta)


def scores() -> Any:
    """A field that holds scores."""
    return field(metadata={"kind": "scores"})


def model() -> Any:
    """A field that holds one model, under a prompt or not."""
    return field(metadata={"kind": "model"})


def many() -> Any:
    """A field that takes every plain argument that is left: two scores or more."""
    return field(metadata={"kind": "many"})


def weighted() -> Any:
    """A field that takes every weighted argument ``w: x``: pairs of a number and scores."""
    return field(metadata={"kind": "weighted"})


def condition() -> Any:
    """A field that holds a condition on the state."""
    return field(metadata={"kind": "condition"})


def reward() -> Any:
    """A field that holds an expression over reward models."""
    return field(metadata={"kind": "reward"})


def choice(*options: str) -> Any:
    """A field that holds one of a few words; the first is the default."""
    return field(default=options[0], metadata={"kind": "choice", "options": options})


def pair() -> Any:
    """A field that holds two numbers ``(lo, hi)``, or None."""
    return field(default=None, metadata={"kind": "pair"})


def label() -> Any:
    """A field that holds a class of a classifier, by index or by name, or None."""
    return field(default=None, metadata={"kind": "label"})


def derived() -> Any:
    """A field that the planner works out; a formula cannot write it."""
    return field(default=None, metadata={"kind": "derived"})
