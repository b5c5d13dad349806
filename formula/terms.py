"""A term: one model under one prompt, and what is added to its weights.

Terms are equal where all of that is, and the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from .scalar import Scalar, added, show


@dataclass(frozen=True, slots=True)
class Term:
    """One model under one prompt: a row of a lane.

    Args:
        model: the declared name.
        system: the system prompt instead of the declared one; "" for none.
        alone: the model reads no prompt, only the response after BOS (``model@none``).
        noimage: it reads the prompt without its images (``model@noimage``).
        aligned: it has another vocabulary, mapped by the tokens' bytes (``align(model)``).
        additions: the adapters and steering vectors that are added to its weights, by their
            declared names, each with its weight; in the order of the names.
    """

    model: str
    system: str | None = None
    alone: bool = False
    aligned: bool = False
    additions: tuple[tuple[Scalar, str], ...] = ()
    noimage: bool = False

    def __str__(self) -> str:
        return f"align({self._prompted})" if self.aligned else self._prompted

    @property
    def _prompted(self) -> str:
        end = "@noimage" * self.noimage
        if self.alone:
            return f"{self._added}@none{end}"
        if self.system is None:
            return self._added + end
        shown = self.system if len(self.system) <= 24 else self.system[:23] + "…"
        return f'{self._added}@"{shown}"{end}'

    @property
    def _added(self) -> str:
        """The model, and in brackets what is added to it."""
        if not self.additions:
            return self.model
        parts = [_product(show(number.expression, 1), name) for number, name in self.additions]
        return f"{self.model}[{added(parts)}]"

    @property
    def key(self) -> tuple[str, bool, bool, bool, str, bool, str]:
        """The order of terms in a plan: the same for every way of writing one sum."""
        prompt = self.system is not None, self.system or ""
        return (self.model, self.aligned, self.alone, *prompt, self.noimage, self._added)


def _product(factor: str, name: str) -> str:
    return name if factor == "1" else f"-{name}" if factor == "(-1)" else f"{factor}*{name}"
