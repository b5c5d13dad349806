"""One vocabulary for all: compared before anything is loaded, cut only where it is padding."""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.description import REWARD, Description
from ..errors import ModelError


def common_vocabulary(descriptions: Sequence[Description]) -> tuple[int, list[str]]:
    """The vocabulary that every model shares.

    Args:
        cards: the models of one formula; those without a tokenizer are compared by size.

    Returns:
        Its size, and a line for each model of which rows are cut.

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
    one: Description, ones: dict[str, int], two: Description, twos: dict[str, int]
) -> ModelError:
    differing = sorted(
        (token for token in ones.keys() | twos.keys() if ones.get(token) != twos.get(token)),
        key=lambda token: (min(ones.get(token, 1 << 60), twos.get(token, 1 << 60)), token),
    )
    shown = ", ".join(
        f"{token!r} ({ones.get(token, 'absent')} and {twos.get(token, 'absent')})"
        for token in differing[:3]
    )
    within = ones.items() <= twos.items() or twos.items() <= ones.items()
    cure = f"write align({two.name}) to map its tokens to the formula's"
    if two.kind == REWARD:
        cure = "say read: text with it, and it reads the text by a tokenizer of its own"
    return ModelError(
        f"{two.name} has another vocabulary than {one.name}: {len(twos)} and {len(ones)} tokens, "
        f"{len(differing)} of them different: {shown}",
        cure,
        two.name,
        "vocabulary" if within else "tokenizers",
    )
