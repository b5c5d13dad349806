"""What is checked outside of the decode loop and of the event loop: plain values, and their work.

A check is sent to the process of checks, does its work there, and its result comes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

from ...errors import ArgumentError
from ...formula import Names, Plan, make_plan
from ...models import is_ids, is_messages
from ...models.images.parts import has_images
from ...runtime.constraints.limits import SECONDS, ConstraintError
from ...runtime.constraints.spec import Constraint
from .constraint_trial import try_constraint
from .encoders import Parts
from .formula_check import check_formula

SHORT = 16_384  # characters of prompts that are short


class Check(Protocol):
    """Something to check."""

    @property
    def seconds(self) -> float:
        """Of computing that it may take."""

    @property
    def parts(self) -> Mapping[int, bytes]:
        """What the process must have, pickled, by numbers that no other part has."""

    @property
    def size(self) -> int:
        """How much there is to do, in characters."""

    def run(self, parts: Parts) -> Any:
        """Do the work; the result pickles."""

    def too_much(self) -> Exception:
        """The error of a check that has taken too long, or too much memory."""


@dataclass(frozen=True)
class TryConstraint:
    """Whether a constraint compiles."""

    seconds: ClassVar[float] = SECONDS
    parts: ClassVar[Mapping[int, bytes]] = {}
    constraint: Constraint

    @property
    def size(self) -> int:
        return len(self.constraint.text)

    def run(self, parts: Parts) -> None:
        try_constraint(self.constraint)

    def too_much(self) -> Exception:
        problem = f"the {self.constraint.kind} takes too long, or too much memory, to compile"
        return ConstraintError(f"{problem}; make it smaller")


@dataclass(frozen=True)
class PlanFormula:
    """The plan of a formula."""

    seconds: ClassVar[float] = SECONDS
    parts: ClassVar[Mapping[int, bytes]] = {}
    text: str
    names: Names

    @property
    def size(self) -> int:
        return len(self.text)

    def run(self, parts: Parts) -> Plan:
        return make_plan(self.text, self.names)

    def too_much(self) -> Exception:
        return ArgumentError("the formula takes too long to plan; make it shorter")


@dataclass(frozen=True)
class CheckFormula:
    """A formula while it is typed; the arguments and the result are those of ``check_formula``."""

    seconds: ClassVar[float] = SECONDS
    parts: ClassVar[Mapping[int, bytes]] = {}
    text: str
    names: Names
    defaults: Mapping[str, float]
    params: Mapping[str, float]

    @property
    def size(self) -> int:
        return len(self.text)

    def run(self, parts: Parts) -> dict[str, Any]:
        return check_formula(self.text, self.names, self.defaults, self.params)

    def too_much(self) -> Exception:
        return ArgumentError("the formula takes too long to check; make it shorter")


@dataclass(frozen=True)
class EncodePrompts:
    """What the terms of a formula read of prompts.

    Attributes:
        encoders: the formula's, pickled, whose tokenizers are ``parts``.
        prompts: texts and chats without images.
        longest: tokens that each may have; None for any number.
    """

    encoders: bytes
    parts: Mapping[int, bytes]
    prompts: Sequence[Any]
    longest: int | None

    @cached_property
    def size(self) -> int:
        return sum(map(characters, self.prompts))

    @property
    def seconds(self) -> float:
        return 1.0 if self.size <= SHORT else 3.0

    def run(self, parts: Parts) -> list[Any]:
        encoders = parts.encoders(self.encoders)
        return [encoders.read(prompt, self.longest) for prompt in self.prompts]

    def too_much(self) -> Exception:
        problem = "the prompt takes too long, or too much memory, to be rendered and tokenized"
        return ArgumentError(f"{problem}; shorten it")


def is_text(prompt: Any) -> bool:
    """Whether a prompt is text or a chat, without images, which are read where the models are."""
    return bool(prompt) and not is_ids(prompt) and not (is_messages(prompt) and has_images(prompt))


def characters(prompt: Any) -> int:
    """How many there are in a prompt."""
    if isinstance(prompt, str):
        return len(prompt)
    if isinstance(prompt, Mapping):
        return sum(map(characters, prompt.values()))
    return sum(map(characters, prompt)) if isinstance(prompt, Sequence) else 1
