"""Two vocabularies: which token of one is which token of the other.

Tokens of text are compared by the bytes that they stand for, and those that mark a text by what
they are for. Nothing here reads a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..checkpoint.description import Description
from ..errors import ModelError
from .token_bytes import TokenBytes, special_ids, token_bytes

ROLES = ("eos_token_id", "bos_token_id", "unk_token_id", "pad_token_id")  # the first has the choice


@dataclass(frozen=True)
class Side:
    """One of two vocabularies.

    Attributes:
        tokenizer: its tokenizer.
        size: tokens that the model has rows for.
        ends: ids that end a text.
    """

    tokenizer: Any
    size: int
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True)
class TokenMap:
    """The tokens of a formula in the vocabulary of another model.

    Attributes:
        theirs: per token of the formula, the other model's id, one to one; -1 where it has none.
        reads: per token of the formula, what the other model reads for it: its counterpart, or
            several tokens that stand for the same bytes, or nothing where there are none.
        own: the size of the other vocabulary.
        ends: the other model's ids that end a text and all count as its first; empty where there
            is no more than one.
        literal: whether a tokenizer does not say how it decodes, so that its tokens stand for the
            strings that they are.
    """

    theirs: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    own: int
    ends: tuple[int, ...] = ()
    literal: bool = False

    @cached_property
    def ours(self) -> dict[int, int]:
        """The formula's token for each of the other model's ids that have one."""
        return {other: one for one, other in enumerate(self.theirs) if other >= 0}

    @cached_property
    def unused(self) -> tuple[int, ...]:
        """The other model's ids that no token of the formula has anything of."""
        used = self.ours.keys() | set(self.ends)
        return tuple(number for number in range(self.own) if number not in used)

    @cached_property
    def longest(self) -> int:
        """The most tokens that are read for one."""
        return max(map(len, self.reads), default=0)


def one_vocabulary(tokenizer: Any, size: int, description: Description) -> bool:
    """Whether a model's tokens are those of a formula, strings and ids, so that nothing is mapped.

    Args:
        tokenizer: of the formula's tokens, or None.
        size: of the formula's vocabulary.
        card: the model.

    Raises:
        ModelError: there are no strings to map by, and the sizes differ.
    """
    if tokenizer is not None and description.tokenizer is not None:
        return bool(tokenizer.get_vocab() == description.tokenizer.get_vocab())
    if description.size == size:
        return True
    lacks = description.name if description.tokenizer is None else "the formula"
    raise ModelError(
        f"align finds tokens by what they stand for, and {lacks} has no tokenizer; "
        f"{description.name} has {description.size} tokens, the formula {size}",
        "give tokenizer: … with the models",
        description.name,
    )


def token_map(one: Side, two: Side) -> TokenMap:
    """Map a formula's vocabulary, ``one``, to another."""
    ours, theirs = (token_bytes(side.tokenizer, side.size) for side in (one, two))
    found, taken = [-1] * one.size, set()
    for token, other in _pairs(one, ours, two, theirs):
        if token < one.size and other < two.size and found[token] < 0 and other not in taken:
            found[token] = other
            taken.add(other)
    end = end_of_turn(one)
    last = found[end] if end is not None and end < one.size else -1
    more = sorted((two.ends | {last}) - taken - {-1}) if last >= 0 else []
    reads: list[tuple[int, ...]] = [(other,) if other >= 0 else () for other in found]
    for token, text in ours.texts.items():
        reads[token] = reads[token] or theirs.spelled(text)
    if last >= 0:
        for token in one.ends & set(range(one.size)):
            reads[token] = reads[token] or (last,)
    literal = not (ours.kind and theirs.kind)
    ends = (last, *more) if more else ()
    return TokenMap(tuple(found), tuple(reads), two.size, ends, literal)


def _pairs(one: Side, ours: TokenBytes, two: Side, theirs: TokenBytes) -> Iterator[tuple[int, int]]:
    """Ids that stand for one thing: the roles first, then names, then text.

    What ends the other model's texts is nothing but an end of the formula's.
    """
    ends = end_of_turn(one), end_of_turn(two)
    roles = [(getattr(one.tokenizer, r, None), getattr(two.tokenizer, r, None)) for r in ROLES]
    for token, other in (ends, *roles):
        if token is not None and other is not None:
            yield token, other
    for name, token in sorted(ours.special.items(), key=lambda item: item[1]):
        other = theirs.special.get(name)
        if other is not None and (other not in two.ends or token in one.ends):
            yield token, other
    for token, text in ours.texts.items():
        for other in theirs.ids.get(text, ()):
            yield token, other


def end_of_turn(side: Side) -> int | None:
    """The token that ends an answer: what the chat template puts after one, or else the EOS."""
    tokenizer, mark = side.tokenizer, "descant"
    eos: int | None = getattr(tokenizer, "eos_token_id", None)
    if not getattr(tokenizer, "chat_template", None):
        return eos if eos is not None else min(side.ends, default=None)
    turns = [{"role": "user", "content": mark}, {"role": "assistant", "content": mark}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # templates raise what they like
        return eos
    _, found, rest = text.rpartition(mark)
    after = tokenizer(rest, add_special_tokens=False)["input_ids"] if found else []
    marks = special_ids(tokenizer) | side.ends
    return next((token for token in after if token in marks), eos)
