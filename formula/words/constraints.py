"""The stages that constrain an answer: every token that could not lead to one that fits is masked.

What fits is text here: a JSON schema, a regular expression, a grammar, or texts to choose from. It
is compiled for a vocabulary in the runtime.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...grammar.literals import write_string
from .signature import Shift, place, source, texts
from .stages import Stage

_SHOWN = 40  # characters of a text in a plan


@dataclass(frozen=True)
class Source:
    """The text of a schema, a pattern or a grammar; ``name``, where it is declared."""

    text: str
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.name or cut_string(self.text)


@dataclass(frozen=True)
class ConstraintStage(Stage):
    """A stage that masks tokens by the answer so far.

    Attributes:
        takes: the section of a run file that declares its argument; "" for none.
    """

    on_shift = Shift.PASSED
    why_eager = "has masks that the host makes"
    takes: ClassVar[str] = ""

    @property
    def text(self) -> str:
        """What is compiled; of several texts, a JSON list."""
        [key] = type(self).arguments()
        value = getattr(self, key)
        return value.text if isinstance(value, Source) else json.dumps(list(value))


@dataclass(frozen=True)
class Json(ConstraintStage, name="json"):
    """Masks what cannot lead to a JSON document that fits the schema."""

    takes = "schemas"
    schema: Any = source()
    span: Any = place()


@dataclass(frozen=True)
class Regex(ConstraintStage, name="regex"):
    """Masks what cannot lead to a full match of the pattern (Rust's syntax)."""

    pattern: Any = source()
    span: Any = place()


@dataclass(frozen=True)
class Grammar(ConstraintStage, name="grammar"):
    """Masks what cannot lead to a text of the grammar (llguidance's Lark)."""

    takes = "grammars"
    grammar: Any = source()
    span: Any = place()


@dataclass(frozen=True)
class Choice(ConstraintStage, name="choice"):
    """Masks what cannot lead to one of the texts."""

    texts: Any = texts()
    span: Any = place()


def cut_string(text: str) -> str:
    """A text in quotes, cut where it is long."""
    return write_string(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
