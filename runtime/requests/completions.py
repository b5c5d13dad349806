"""Completions that a caller passes, paired with their prompts and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ArgumentError
from ...formula.algebra.liveness import needed_terms
from ...models import ModelError, ids_of, prompts_of
from ...models.text.detokenizer import Detokenizer
from ..binding.bound import Bound
from .request import Request, check_ids


def pair_completions(
    prompts: Any,
    completions: Any,
    params: Mapping[str, Any] | None,
    detokenizer: Detokenizer | None,
) -> tuple[list[Any], list[list[int]]]:
    """A prompt and a completion's token ids per row; a single prompt or completion is repeated.

    Raises:
        ValueError: the numbers of prompts and completions differ; text, and there is no tokenizer.
    """
    many, texts = prompts_of(prompts), prompts_of(completions, "completion")
    if detokenizer is None and any(isinstance(text, str) for text in texts):
        raise ArgumentError("a completion as text needs a tokenizer; give token ids")
    lists = [len(value) for value in (params or {}).values() if isinstance(value, Sequence)]
    rows = max(len(many), len(texts), *lists)
    many, texts = (items * rows if len(items) == 1 else items for items in (many, texts))
    if len(many) != len(texts):
        raise ArgumentError(f"there are {len(many)} prompts and {len(texts)} completions")
    for i, text in enumerate(texts):
        if isinstance(text, str) and detokenizer is not None:
            texts[i] = detokenizer.encode(text)
    return many, [ids_of(ids, "completion") for ids in texts]


def check_completion(bound: Bound, request: Request, ids: Sequence[int], read: int) -> None:
    """Refuse a completion that the models of a request cannot read.

    The models read its first ``read`` tokens; the others are only scored.

    Raises:
        ValueError: ids beyond the vocabulary.
        ModelError: tokens that a model of another vocabulary cannot read, or has no room for.
    """
    check_ids(ids, bound.vocabulary, "completion", bound.tokenizer)
    for bound_term in bound.terms:
        if bound_term.term in needed_terms(bound.plan, request.values):
            cure = "generate never draws it, and nothing can be scored after it"
            bound_term.check(ids[:read], cure)
    for reads, room in request.rooms:
        if sum(len(reads[token]) for token in ids[:read]) > room:
            problem = "the completion is too long for a model of another vocabulary, which reads "
            problem += f"some of its tokens as several and has room for {room}"
            raise ModelError(problem, "shorten it; nothing is cut silently")
