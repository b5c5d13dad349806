"""Completions that are given: which prompt each follows, and whether the models can read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...formula.algebra.liveness import needed
from ...models import ModelError, is_single_prompt
from ..binding.bound import Bound
from .request import Request


def paired(
    prompts: Any, completions: Any, params: Mapping[str, Any] | None, tokenizer: Any
) -> tuple[list[Any], list[list[int]]]:
    """Prompts, and the token ids that follow each; what there is one of is repeated.

    Raises:
        ValueError: so many prompts and so many completions do not go together; text, and there is
            no tokenizer.
    """
    many = [prompts] if is_single_prompt(prompts) else [*prompts]
    asked: list[Any] = [completions] if is_single_prompt(completions) else [*completions]
    if tokenizer is None and any(isinstance(one, str) for one in asked):
        raise ValueError("a completion as text needs a tokenizer; give token ids")
    lists = [len(value) for value in (params or {}).values() if isinstance(value, Sequence)]
    rows = max(len(many), len(asked), *lists)
    many, asked = (one * rows if len(one) == 1 else one for one in (many, asked))
    if len(many) != len(asked):
        raise ValueError(f"there are {len(many)} prompts and {len(asked)} completions")

    def ids(one: Any) -> list[int]:
        if isinstance(one, str):
            one = tokenizer(one, add_special_tokens=False)["input_ids"]
        return [int(token) for token in one]

    return many, [ids(one) for one in asked]


def check_given(bound: Bound, request: Request, ids: Sequence[int], read: int) -> None:
    """Refuse a completion that the models of a request cannot read.

    Args:
        bound: the plan's readers.
        request: the prompt and the numbers.
        ids: the completion.
        read: how many of its tokens are read, and not only scored.

    Raises:
        ValueError: ids beyond the vocabulary.
        ModelError: tokens that a model of another vocabulary cannot read, or has no room for.
    """
    for token in ids:
        if not 0 <= token < bound.vocabulary:
            raise ValueError(
                f"the completion has the token id {token}, and the vocabulary has "
                f"{bound.vocabulary} tokens"
            )
    for bound_term in bound.terms:
        if bound_term.term in needed(bound.plan, bound.plan.scores, request.values):
            cure = "generate never draws it, and nothing can be scored after it"
            bound_term.check(ids[:read], cure)
    for reads, room in request.rooms:
        if sum(len(reads[token]) for token in ids[:read]) > room:
            raise ModelError(
                "the completion is too long for a model of another vocabulary, which reads "
                f"some of its tokens as several and has room for {room}",
                "shorten it; nothing is cut silently",
            )
