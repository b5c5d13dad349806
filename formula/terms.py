"""A term: one model under one prompt. Terms are equal where model, prompt and vocabulary are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """One model under one prompt: a row of a lane.

    Args:
        model: the declared name.
        system: the system prompt instead of the declared one; "" for none.
        alone: the model reads no prompt, only the response after BOS (``model@none``).
        aligned: it has another vocabulary, mapped by the tokens' bytes (``align(model)``).
    """

    model: str
    system: str | None = None
    alone: bool = False
    aligned: bool = False

    def __str__(self) -> str:
        return f"align({self._prompted})" if self.aligned else self._prompted

    @property
    def _prompted(self) -> str:
        if self.alone:
            return f"{self.model}@none"
        if self.system is None:
            return self.model
        shown = self.system if len(self.system) <= 24 else self.system[:23] + "…"
        return f'{self.model}@"{shown}"'

    @property
    def key(self) -> tuple[str, bool, bool, bool, str]:
        """The order of terms in a plan: the same for every way of writing one sum."""
        return (self.model, self.aligned, self.alone, self.system is not None, self.system or "")
