"""Signatures: the fields of a class are the arguments of its stage or operator.

A field has an argument's name, kind, default and limits, in the order of writing. The checker, the
planner, the reports and the docs read them here, and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from functools import partial
from typing import Any, ClassVar

from ...grammar.frozen import Frozen
from ...grammar.tree import NOWHERE

MOST = 3e38  # in a tensor of float32
LEAST = 1e-5  # that scores are divided by, as in vLLM: by less, float32 overflows or sees 0


@dataclass(frozen=True)
class Limits:
    """The values that a number may have: ``low`` to ``high``, without ``low`` where ``above``.

    A number of ``tokens`` is at most the size of the vocabulary. One that ``divides`` scores is at
    least ``LEAST``. What a step works on is as large as the largest that ``sizes`` it.
    """

    low: float = -float("inf")
    high: float = float("inf")
    above: bool = False
    integer: bool = False
    tokens: bool = False
    divides: bool = False
    sizes: bool = False

    @property
    def words(self) -> str:
        """What a value must be; nothing where it is not limited."""
        least = f"{'above' if self.above else 'at least'} {self.low:g}" * math.isfinite(self.low)
        most = f"at most {self.high:g}" * math.isfinite(self.high)
        return " and ".join(filter(None, (least, most)))

    def problem(self, value: float) -> str | None:
        """What is wrong with the value, or None."""
        if self.integer and value != int(value):
            return "must be a whole number"
        if value < self.low or (self.above and value == self.low):
            return f"must be {'above' if self.above else 'at least'} {self.low:g}"
        if self.divides and value < LEAST:
            return f"must be at least {LEAST:g}"
        if value > self.high:
            return f"must be at most {self.high:g}"
        return None


UNLIMITED = Limits()


class Shift(Enum):
    """The effect on a value of one number added to all the scores that it is made of."""

    PASSED = "a number is added to every score of the value too"
    ABSORBED = "the value does not change"
    FELT = "the value changes in other ways: the scores must be log-probabilities"


@dataclass(frozen=True)
class Signature(Frozen):
    """A stage or an operator with its arguments. Subclasses declare the arguments as fields.

    Attributes:
        name: that formulas use.
        table: of the classes, by name.
        on_shift: what one number added to all scores does.
        why_eager: why a step with it cannot be recorded.
        keeps_state: whether a row has a state of it, which every step changes.
        own: what computes one of a user's own; else None.
        span: where one of a user's own is written, a field of such a class.
    """

    name: ClassVar[str]
    table: ClassVar[dict[str, Any]]
    on_shift: ClassVar[Shift] = Shift.FELT
    why_eager: ClassVar[str] = ""
    keeps_state: ClassVar[bool] = False
    own: ClassVar[Any] = None
    span = NOWHERE  # not annotated: no field

    def __init_subclass__(cls, name: str = "") -> None:
        """Register the class, where it has a name."""
        super().__init_subclass__()
        if name:
            cls.register(name)

    @classmethod
    def register(cls, name: str) -> None:
        """Enter the class into its table under the name that formulas use."""
        cls.name = name
        cls.table[name] = cls

    @classmethod
    def arguments(cls) -> dict[str, Field[Any]]:
        """The arguments by name, in the order in which they may be written."""
        return {item.name: item for item in fields(cls) if item.metadata["kind"] != "derived"}

    @classmethod
    def required(cls) -> list[str]:
        """The arguments that have no default."""
        return [name for name, item in cls.arguments().items() if item.default is MISSING]


def _argument(kind: str, default: Any = MISSING, **more: Any) -> Any:
    return field(default=default, metadata={"kind": kind, **more})


def number(
    default: float | None = None, static: bool = False, unless: str = "", **limits: Any
) -> Any:
    """A field that holds a number within ``Limits(**limits)``: a ``Scalar`` once planned.

    One that is ``static`` is needed before a step: no number of the state may be in it. ``unless``
    names an argument: where that is written and this is not, this is None.
    """
    own = MISSING if default is None else default
    return _argument("number", own, limits=Limits(**limits), static=static, unless=unless)


def optional_number(**limits: Any) -> Any:
    """A field that holds a number as ``number`` does, or None where none is written."""
    return _argument("number", None, limits=Limits(**limits))


def choice(*options: str) -> Any:
    """A field that holds one of a few words; the first is the default."""
    return _argument("choice", options[0], options=options)


scores = partial(_argument, "scores")  # scores
model = partial(_argument, "model")  # one model, with or without a prompt of its own
head = partial(_argument, "head")  # a declared head
many = partial(_argument, "many")  # all other plain arguments: two scores or more
weighted = partial(_argument, "weighted")  # all weighted arguments ``w: x``: numbers and scores
condition = partial(_argument, "condition")  # a condition on the state
reward = partial(_argument, "reward")  # an expression over reward models
by_token = partial(_argument, "by_token")  # token ids, each with a number: ``{50256: -100}``
pair = partial(_argument, "pair", None)  # two numbers ``(lo, hi)``, or None
string = partial(_argument, "string", None)  # a text in quotes (``grammar.Text``), or None
label = partial(_argument, "label", None)  # a class of a classifier, by index or by name, or None
source = partial(_argument, "source")  # a text: declared by name, or a string
texts = partial(_argument, "texts")  # all other plain arguments: strings, one or more
derived = partial(_argument, "derived", None)  # from the planner; a formula cannot write it


def place() -> Any:
    """A field that holds where a stage or an operator is written."""
    return field(default=NOWHERE, compare=False, repr=False, metadata={"kind": "derived"})
