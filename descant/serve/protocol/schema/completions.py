"""The body of ``/v1/completions``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from .fields import Ids, NonEmpty, Text, refuse
from .generation import GenerationRequest
from .prompts import Top


class CompletionRequest(GenerationRequest):
    """The body of ``/v1/completions``."""

    prompt: Text | Ids | NonEmpty[Text | Ids]
    logprobs: Top | None = None
    best_of: int | None = None
    suffix: Annotated[Any, refuse("nothing is written before a suffix; leave it out", "")] = None

    @model_validator(mode="after")
    def _check_best_of(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is part of the formula: … | best_of(reward, n=4)")
        return self

    @property
    def prompts(self) -> list[Any]:
        """Each prompt: a text, or token ids."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return list(self.prompt) if several else [self.prompt]

    @property
    def echoed(self) -> list[str | None] | None:
        """The texts that answers begin with; None for token ids, whose text is not known here."""
        if not self.echo:
            return None
        return [prompt if isinstance(prompt, str) else None for prompt in self.prompts]

    @property
    def prompt_top(self) -> int | None:
        own = super().prompt_top
        return max(own or 0, self.best) if self.echo and self.with_logprobs else own
