"""The common vocabulary of models: compared before weights are read."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.description import REWARD, Description
from ..errors import ModelError


def common_vocabulary(descriptions: Sequence[Description]) -> tuple[int, list[str]]:
    """The vocabulary that every model shares.

    Args:
        descriptions: of the models of one formula; those without a tokenizer are compared by size.

    Returns:
        Its size, and a note for each model of which rows are cut.

    Raises:
        ModelError: two models disagree; names both, their sizes and three tokens that differ.
    """
    known = [
        (description, description.tokenizer.get_vocab())
        for description in descriptions
        if description.tokenizer is not None
    ]
    for description, vocabulary in known[1:]:
        if vocabulary != known[0][1]:
            raise _differ(known[0][0], known[0][1], description, vocabulary)
    sizes = [description.size for description in descriptions]
    size = 1 + max(known[0][1].values()) if known else sizes[0]
    first = known[0][0] if known else descriptions[0]
    for description in descriptions:
        if description.tokenizer is None and description.size not in (size, first.size):
            raise ModelError(
                f"{description.name} has {description.size} tokens and {first.name} has "
                f"{first.size}",
                "models in one formula must share one vocabulary",
                description.name,
                "vocabulary",
            )
    size = min(size, *sizes)
    notes = []
    for description, vocabulary in known:
        beyond = description.size - len(vocabulary)
        if description.size > size:
            why = f"{beyond} are padding beyond the tokenizer" if beyond > 0 else "others lack them"
            notes.append(
                f"{description.name}: {description.size - size} rows of {description.size} are "
                f"cut; {why}"
            )
        elif len(vocabulary) > size:
            notes.append(
                f"{description.name}: {len(vocabulary) - size} tokens of its tokenizer have no row "
                "in a model of the formula, and are never chosen"
            )
    return size, notes


def _differ(
    one: Description, ids: dict[str, int], other: Description, other_ids: dict[str, int]
) -> ModelError:
    def lowest(token: str) -> tuple[int, str]:
        return min(ids.get(token, 1 << 60), other_ids.get(token, 1 << 60)), token

    tokens = ids.keys() | other_ids.keys()
    differing = sorted((t for t in tokens if ids.get(t) != other_ids.get(t)), key=lowest)
    shown = ", ".join(
        f"{token!r} ({ids.get(token, 'absent')} and {other_ids.get(token, 'absent')})"
        for token in differing[:3]
    )
    nested = ids.items() <= other_ids.items() or other_ids.items() <= ids.items()
    cure = f"write align({other.name}) to map its tokens to the formula's"
    if other.kind == REWARD:
        cure = "say read: text with it, and it reads the text by a tokenizer of its own"
    return ModelError(
        f"{other.name} has another vocabulary than {one.name}: {len(other_ids)} and {len(ids)} "
        f"tokens, {len(differing)} of them different: {shown}",
        cure,
        other.name,
        "vocabulary" if nested else "tokenizers",
    )
