"""The stages of the language: each is a frozen dataclass, and its fields are its signature.

What a formula may write after ``|``, in which order, with which defaults and limits, is read off
these fields and nowhere else. What a stage does to scores lives in the runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar

STAGES: dict[str, type[Stage]] = {}
LATER_STAGES = frozenset(("best_of", "blockwise", "reject"))


@dataclass(frozen=True)
class Limits:
    """What a number may be. ``low`` and ``high`` are included unless ``above`` leaves low out."""

    low: float = -float("inf")
    high: float = float("inf")
    above: bool = False
    whole: bool = False

    def problem(self, value: float) -> str | None:
        """What is wrong with the value, or None."""
        if self.whole and value != int(value):
            return "must be a whole number"
        if value < self.low or (self.above and value == self.low):
            return f"must be {'above' if self.above else 'at least'} {self.low:g}"
        if value > self.high:
            return f"must be at most {self.high:g}"
        return None


def number(limits: Limits | None = None, default: float | None = None) -> Any:
    """A field that holds a number: once planned, its index in ``Plan.scalars``."""
    meta = {"kind": "number", "limits": limits or Limits()}
    return field(metadata=meta) if default is None else field(default=default, metadata=meta)


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


@dataclass(frozen=True)
class Stage:
    """One step of the chain after the scores. Subclasses declare the arguments as fields."""

    name: ClassVar[str]

    @classmethod
    def arguments(cls) -> dict[str, Field[Any]]:
        """The stage's arguments by name, in the order in which they may be written."""
        return {item.name: item for item in fields(cls)}

    @classmethod
    def required(cls) -> list[str]:
        """The arguments that have no default."""
        return [name for name, item in cls.arguments().items() if item.default is MISSING]


def stage(name: str) -> Callable[[type[Stage]], type[Stage]]:
    """Register a stage class under the name that formulas use."""

    def register(cls: type[Stage]) -> type[Stage]:
        cls.name = name
        STAGES[name] = cls
        return cls

    return register


@stage("rerank")
@dataclass(frozen=True)
class Rerank(Stage):
    """Keeps the k best tokens and adds ``w * r([x, v])`` to each (ARGS, Algorithm 1)."""

    reward: Any = reward()
    k: Any = number(Limits(1, whole=True), 10)
    w: Any = number(default=1)
    norm: str = choice("none", "center", "minmax", "prefix")
    clamp: Any = pair()
    keep: str = choice("candidates", "all")
    label: Any = label()


@stage("top_k")
@dataclass(frozen=True)
class TopK(Stage):
    """Masks every token below the k-th best (transformers' TopKLogitsWarper)."""

    k: Any = number(Limits(1, whole=True))


@stage("top_p")
@dataclass(frozen=True)
class TopP(Stage):
    """Keeps the fewest tokens whose probabilities reach p (transformers' TopPLogitsWarper)."""

    p: Any = number(Limits(0, 1, above=True))


@stage("min_p")
@dataclass(frozen=True)
class MinP(Stage):
    """Masks tokens with less than p times the best probability (MinPLogitsWarper)."""

    p: Any = number(Limits(0, 1))


@stage("temperature")
@dataclass(frozen=True)
class Temperature(Stage):
    """Divides the scores by t (transformers' TemperatureLogitsWarper)."""

    t: Any = number(Limits(0, above=True))


@stage("repetition_penalty")
@dataclass(frozen=True)
class RepetitionPenalty(Stage):
    """Penalises tokens already read (transformers' RepetitionPenaltyLogitsProcessor)."""

    x: Any = number(Limits(0, above=True))
