"""One vocabulary for all: compared before anything is loaded, cut only where it is padding."""

from __future__ import annotations

from collections.abc import Sequence

from .card import REWARD, Card
from .errors import ModelError


def common_vocabulary(cards: Sequence[Card]) -> tuple[int, list[str]]:
    """The vocabulary that every model shares.

    Args:
        cards: the models of one formula; those without a tokenizer are compared by size.

    Returns:
        Its size, and a line for each model of which rows are cut.

    Raises:
        ModelError: two models disagree; names both, their sizes and three tokens that differ.
    """
    known = [(card, card.tokenizer.get_vocab()) for card in cards if card.tokenizer is not None]
    for card, vocabulary in known[1:]:
        if vocabulary != known[0][1]:
            raise _differ(known[0][0], known[0][1], card, vocabulary)
    sizes = [card.size for card in cards]
    size = 1 + max(known[0][1].values()) if known else sizes[0]
    first = known[0][0] if known else cards[0]
    for card in cards:
        if card.tokenizer is None and card.size not in (size, first.size):
            raise ModelError(
                f"{card.name} has {card.size} tokens and {first.name} has {first.size}",
                "models in one formula must share one vocabulary",
                card.name,
                "vocabulary",
            )
    size = min(size, *sizes)
    notes = []
    for card, vocabulary in known:
        beyond = card.size - len(vocabulary)
        if card.size > size:
            why = f"{beyond} are padding beyond the tokenizer" if beyond > 0 else "others lack them"
            notes.append(f"{card.name}: {card.size - size} rows of {card.size} are cut; {why}")
        elif len(vocabulary) > size:
            notes.append(
                f"{card.name}: {len(vocabulary) - size} tokens of its tokenizer have no row "
                "in a model of the formula, and are never chosen"
            )
    return size, notes


def _differ(one: Card, ones: dict[str, int], two: Card, twos: dict[str, int]) -> ModelError:
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
