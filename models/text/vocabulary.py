"""The common vocabulary of models: compared before weights are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..checkpoint.description import REWARD, Description
from ..errors import ModelError

NO_ROW = "have no row in a model of the formula: a text with one is refused"


def common_vocabulary(descriptions: Sequence[Description]) -> tuple[int, list[str]]:
    """The vocabulary that models share; those without a tokenizer are compared by size.

    Returns:
        Its size, and a note for each model of which rows are cut.

    Raises:
        ModelError: two models disagree; names both, their sizes and three tokens that differ.
    """
    with_tokens = [item for item in descriptions if item.tokenizer is not None]
    known = [(item, item.tokenizer.get_vocab()) for item in with_tokens]
    first, ids = known[0] if known else (descriptions[0], {})
    for description, other_ids in known[1:]:
        if other_ids != ids:
            raise _differ(first, ids, description, other_ids)
    size = 1 + max(ids.values()) if known else first.size
    for item in descriptions:
        if item.tokenizer is None and item.size not in (size, first.size):
            problem = f"{item.name} has {item.size} tokens and {first.name} has {first.size}"
            cure = "models in one formula must share one vocabulary"
            raise ModelError(problem, cure, item.name, "vocabulary")
    size = min(size, *(item.size for item in descriptions))
    notes = []
    for item, ids in known:
        cut, beyond, more = item.size - size, item.size - len(ids), len(ids) - size
        if cut > 0:
            why = f"{beyond} are padding beyond the tokenizer" if beyond > 0 else "others lack them"
            notes.append(f"{item.name}: {cut} rows of {item.size} are cut; {why}")
        elif more > 0:
            lacking = f"{NO_ROW}, and are never chosen"
            notes.append(f"{item.name}: {more} tokens of its tokenizer {lacking}")
    return size, notes


def tokens_without_rows(tokenizer: Any, size: int) -> dict[int, str]:
    """The tokens of a tokenizer that have no row among the ``size`` embeddings, by their ids."""
    known = {} if tokenizer is None else tokenizer.get_vocab()
    return {token_id: token for token, token_id in known.items() if token_id >= size}


def _differ(
    one: Description, ids: dict[str, int], other: Description, other_ids: dict[str, int]
) -> ModelError:
    tokens = [t for t in ids.keys() | other_ids.keys() if ids.get(t) != other_ids.get(t)]
    lowest = {t: min(ids.get(t, 1 << 60), other_ids.get(t, 1 << 60)) for t in tokens}
    differing = sorted(tokens, key=lambda token: (lowest[token], token))
    shown = ", ".join(
        f"{token!r} ({ids.get(token, 'absent')} and {other_ids.get(token, 'absent')})"
        for token in differing[:3]
    )
    nested = ids.items() <= other_ids.items() or other_ids.items() <= ids.items()
    cure = f"write align({other.name}) to map its tokens to the formula's"
    if other.kind == REWARD:
        cure = "say read: text with it, and it reads the text by a tokenizer of its own"
    sizes = f"{len(other_ids)} and {len(ids)} tokens, {len(differing)} of them different"
    problem = f"{other.name} has another vocabulary than {one.name}: {sizes}: {shown}"
    return ModelError(problem, cure, other.name, "vocabulary" if nested else "tokenizers")
