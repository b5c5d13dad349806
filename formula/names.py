"""The names in a formula: the language's own, and those that are declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import ArgumentError
from ..grammar.tree import NOIMAGE as NOIMAGE
from .words.operators import OPERATORS, STAGED

# Scalar functions and how many arguments each takes: (least, most).
SCALAR_FUNCTIONS = {
    **dict.fromkeys(("exp", "log", "sqrt", "abs", "sigmoid"), (1, 1)),
    **dict.fromkeys(("min", "max"), (2, 64)),
}
IN_A_STEP = frozenset(SCALAR_FUNCTIONS)  # these may be of numbers of the state; extensions may not
# Numbers of the state, and how many scores each is of.
STATE = {"step": 0, "thinking": 0, "entropy": 1, "max_prob": 1, "kl": 2, "js": 2}
ANSWER_LENGTH = "answer_length"  # a number of reward expressions
NONE = "none"
# What is never a declared name. Other words of the language are words before a parenthesis alone.
RESERVED = frozenset(("step", "thinking", ANSWER_LENGTH, NONE, "and", "or", "not"))


def called() -> set[str]:
    """The words that stand before arguments where a term or a number may, one's own among them."""
    return {*SCALAR_FUNCTIONS, *OPERATORS, *STAGED, *STATE}


def is_word(name: str) -> bool:
    """Whether a name means something in the language itself, stages apart."""
    return any(name in words for words in (RESERVED, SCALAR_FUNCTIONS, OPERATORS, STAGED, STATE))


class DeclaredHead(Protocol):
    """What a formula knows of a declared head."""

    @property
    def on(self) -> str:
        """The declared model whose layers it reads."""

    @property
    def gives_scores(self) -> bool:
        """Whether it gives scores; otherwise it gives one number."""


@dataclass(frozen=True)
class Names:
    """Every name that a formula may use.

    Args:
        models: the declared models' names; ``None`` takes every other name for a model.
        params: the declared parameters' names.
        prompts: prompt names and their text.
        heads: those of the models that are heads.
        schemas: JSON schemas by name, each as text, or as a mapping.
        grammars: grammars by name, in llguidance's Lark.
    """

    models: frozenset[str] | None = None
    params: frozenset[str] = frozenset()
    prompts: Mapping[str, str] = field(default_factory=dict)
    heads: Mapping[str, DeclaredHead] = field(default_factory=dict)
    schemas: Mapping[str, Any] = field(default_factory=dict)
    grammars: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a name that a formula cannot spell, or that is ambiguous."""
        models = self.models or ()
        for kind, names in (("model", models), ("parameter", self.params)):
            for name in sorted(names):
                if not (name.isidentifier() and name.isascii()):
                    cure = "a name is letters, digits and underscores"
                    raise ArgumentError(
                        f"the {kind} {name!r} cannot be written in a formula; {cure}"
                    )
                if name in RESERVED:
                    raise ArgumentError(f"the {kind} {name!r} has the name of a built-in")
                if kind == "parameter" and name in models:
                    raise ArgumentError(f"{name!r} is declared both as a model and a parameter")
        if NONE in self.prompts:
            raise ArgumentError("a prompt cannot be named none: model@none sees no prompt at all")
        if NOIMAGE in self.prompts:
            problem = "a prompt cannot be named noimage: model@noimage sees no images"
            raise ArgumentError(problem)

    def is_model(self, name: str) -> bool:
        """Whether the name is (or, where models are open, can be) a model's."""
        if self.models is None:
            return name not in self.params and not is_word(name)
        return name in self.models

    def all(self) -> set[str]:
        """Every name that means something where a term or a number may stand."""
        models = {*(self.models or ())} - {*self.heads}
        return models | set(self.params) | set(SCALAR_FUNCTIONS)
