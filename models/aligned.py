"""Two vocabularies: which token of one is which token of the other.

Tokens are compared by what their tokenizers hold, and those that mark a text by what they are for.
Nothing here reads text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .card import Card
from .errors import ModelError

ROLES = ("eos_token_id", "bos_token_id", "unk_token_id", "pad_token_id")  # the first has the choice


@dataclass(frozen=True)
class Counterparts:
    """The tokens of a formula in the vocabulary of another model, one to one.

    Attributes:
        theirs: per token of the formula, the other model's id; -1 where it has none.
        own: the size of the other vocabulary.
    """

    theirs: tuple[int, ...]
    own: int

    @cached_property
    def ours(self) -> dict[int, int]:
        """The formula's token for each of the other model's ids that have one."""
        return {other: one for one, other in enumerate(self.theirs) if other >= 0}


def one_vocabulary(tokenizer: Any, size: int, card: Card) -> bool:
    """Whether a model's tokens are those of a formula, strings and ids, so that nothing is mapped.

    Args:
        tokenizer: of the formula's tokens, or None.
        size: of the formula's vocabulary.
        card: the model.

    Raises:
        ModelError: there are no strings to map by, and the sizes differ.
    """
    if tokenizer is not None and card.tokenizer is not None:
        return bool(tokenizer.get_vocab() == card.tokenizer.get_vocab())
    if card.size == size:
        return True
    lacks = card.name if card.tokenizer is None else "the formula"
    raise ModelError(
        f"align finds tokens by their strings, and {lacks} has no tokenizer; "
        f"{card.name} has {card.size} tokens, the formula {size}",
        "give tokenizer: … with the models",
        card.name,
    )


def counterparts(tokenizer: Any, size: int, other: Any, own: int) -> Counterparts:
    """Map a formula's vocabulary to another.

    Args:
        tokenizer: of the formula's tokens.
        size: of the formula's vocabulary.
        other: the other model's tokenizer.
        own: the size of the other model's vocabulary.
    """
    theirs, taken = [-1] * size, set()
    for one, two in _pairs(tokenizer, other):
        if one < size and two < own and theirs[one] < 0 and two not in taken:
            theirs[one] = two
            taken.add(two)
    return Counterparts(tuple(theirs), own)


def _pairs(tokenizer: Any, other: Any) -> Iterator[tuple[int, int]]:
    """Ids that stand for one thing: the roles first, then every string."""
    for role in ROLES:
        one, two = getattr(tokenizer, role, None), getattr(other, role, None)
        if one is not None and two is not None:
            yield one, two
    found = {spelled(token): number for token, number in other.get_vocab().items()}
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if spelled(token) in found:
            yield number, found[spelled(token)]


def spelled(token: str) -> str:
    """A token's string in the one spelling in which tokenizers are compared.

    Today what the tokenizer holds: `Ġa` of a byte-level tokenizer and `▁a` of a SentencePiece one
    are two tokens.
    """
    return token
