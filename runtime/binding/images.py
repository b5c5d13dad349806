"""Images of a prompt: read once for all models, each of which needs eyes for them."""

from __future__ import annotations

from typing import Any

from ...models import is_messages
from ...models.functions import FunctionReward
from ...models.images.parts import has_images, with_images
from ...models.text.prompts import see_without
from .bound import Bound
from .bound_term import BoundTerm


def with_eyes(bound: Bound, prompt: Any) -> Any:
    """A prompt whose images are read, if it has any.

    Raises:
        FormulaError: a term is to read images, and its model cannot; marked there.
        ModelError: an image that cannot be had.
    """
    if not is_messages(prompt) or not has_images(prompt):
        return prompt
    for term in bound.terms:
        if _is_blind(term):
            name, span = term.term.model, bound.plan.spans[term.term]
            problem = f"{name} has no eyes, and the prompt has images"
            raise bound.plan.error(problem, span, see_without(name))
    return with_images(prompt, bound.sources)


def _is_blind(term: BoundTerm) -> bool:
    """Whether a term would read images, and has no eyes."""
    reads = not (term.term.alone or term.term.noimage)
    return reads and term.processor is None and not isinstance(term.spec.model, FunctionReward)
