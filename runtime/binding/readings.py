"""What the terms of a formula read of a prompt, which may have been read before it came here.

A server reads prompts in a process without weights, so that no step waits for a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...models.text.prompt_encoder import PromptEncoders, ReadPrompt


def terms_of(bound: Any) -> list[Any]:
    """All terms of a bound plan that read prompts: of the scores, of rewards, of drafts."""
    rewards = [term for terms in bound.rewards.values() for term in terms]
    return [*bound.terms, *rewards, *bound.draft_terms]


def encoders_of(bound: Any) -> PromptEncoders:
    """How the terms of a bound plan read prompts."""
    encoders = [
        None if term.is_function or term.processor is not None else term.encoder
        for term in terms_of(bound)
    ]
    return PromptEncoders(encoders)


def plain(prompt: Any) -> Any:
    """A prompt as its caller gave it."""
    return prompt.prompt if isinstance(prompt, ReadPrompt) else prompt


def readings_of(bound: Any, prompt: Any, read: Any) -> Iterator[Any]:
    """What each term reads of a prompt: what ``read`` says, if it was read, and else now."""
    terms = terms_of(bound)
    known = read.readings if isinstance(read, ReadPrompt) else [None] * len(terms)
    for term, reading in zip(terms, known, strict=True):
        yield term.reads(prompt) if reading is None else reading
