"""A prompt as the formula's tokens, and as a text that is scored from its second token on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...formula.algebra.liveness import needed_terms
from ...models import ModelError
from ...models.functions import UserPrompt
from ...models.images.prompt import ImagePrompt
from ..binding.bound import Bound
from ..binding.bound_term import BoundTerm
from ..requests.answer_text import AnswerText
from ..requests.completions import check_completion
from ..requests.request import Reading, Request


def prompt_ids(bound: Bound, request: Request) -> list[int]:
    """The formula's ids of the prompt that an answer's text continues (``Bound.text_term``)."""
    return bound.terms[bound.text_term].formula_ids(request.prompts[bound.text_term])


def shown_ids(bound: Bound, ids: Sequence[int]) -> list[tuple[str, bytes]]:
    """Tokens that a text begins with: each as a string by itself, and its bytes in the text.

    Raises:
        ModelError: there is no tokenizer.
    """
    if bound.detokenizer is None:
        raise ModelError("the formula's models have no tokenizer", "give tokenizer: …")
    text = AnswerText(bound.detokenizer, (), ())
    text.end(ids)
    return text.shown(ids, 0)


def along_prompt(bound: Bound, request: Request) -> tuple[Request, list[int]]:
    """A request whose prompt is the first token of another's, and the tokens that follow it there.

    The formula's scores along these are those of the prompt.

    Raises:
        ModelError: models that the scores need read the prompt in other tokens, or with images, so
            that no token of it is the same to all of them.
    """
    ids, first = prompt_ids(bound, request), bound.terms[bound.text_term].term
    needed = needed_terms(bound.plan, request.values)
    pairs: list[tuple[BoundTerm, Reading]] = [
        pair for pair in zip(bound.terms, request.prompts, strict=True) if pair[0].term in needed
    ]
    for address, terms in bound.rewards.items():
        pairs.extend(zip(terms, request.rewards[address], strict=True))
    for term, reading in pairs:
        if not _is_of(term, reading, ids):
            problem = f"{term.term} reads this prompt in other tokens than {first}"
            cure = "a prompt has log-probabilities where all models read the same of it"
            raise ModelError(problem, cure, term.term.model)
    start, rest = ids[:1], ids[1:]
    scored = replace(
        request, prompt=start, prompts=[term.term_ids(start) for term in bound.terms],
        rewards={at: [_of(term, start) for term in terms] for at, terms in bound.rewards.items()},
        draft_prompts=[term.term_ids(start) for term in bound.draft_terms],
        values=request.values[: len(bound.scalars)], draft=None,
        max_new_tokens=max(1, len(rest)), states={},
    )  # fmt: skip
    check_completion(bound, scored, rest, read=len(rest) - 1)
    return scored, rest


def _of(term: BoundTerm, ids: Sequence[int]) -> Reading:
    """What a term reads of the formula's tokens, without what it would read before them."""
    return term.term_ids(ids) if term.shared is None else term.reads(ids)


def _is_of(term: BoundTerm, reading: Reading, ids: Sequence[int]) -> bool:
    """Whether what a term reads of a prompt is what it reads of the formula's tokens."""
    if isinstance(reading, ImagePrompt | UserPrompt):
        return False
    if isinstance(reading, str) or term.token_map is None:
        return reading == _of(term, ids)
    own, mapped = (
        term.tokenizer.decode(each, skip_special_tokens=True)
        for each in (reading, term.term_ids(ids))
    )
    return bool(own == mapped)
