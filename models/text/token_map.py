"""Two vocabularies: which token of one is which token of the other.

Tokens of text are compared by the bytes that they stand for, special tokens by their role or name.
Nothing here reads a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..checkpoint.description import Description
from ..errors import ModelError
from .templates import rendered
from .token_bytes import TokenBytes, special_ids, token_bytes

ROLES = ("eos_token_id", "bos_token_id", "unk_token_id", "pad_token_id")  # by precedence


@dataclass(frozen=True)
class Vocabulary:
    """One of two vocabularies.

    Attributes:
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
        other_ids: per token of the formula, the other model's id, one to one; -1 for none.
        reads: per token of the formula, the ids that the other model reads for it: its one id, or
            several that stand for the same bytes, or none.
        other_size: of the other vocabulary.
        ends: the other model's ids that end a text and all count as its first; empty where there
            is at most one.
        literal: whether a tokenizer has no known decoder, so that its tokens stand for the strings
            that they are.
    """

    other_ids: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    other_size: int
    ends: tuple[int, ...] = ()
    literal: bool = False

    @cached_property
    def formula_ids(self) -> dict[int, int]:
        """The formula's token for each of the other model's ids that have one."""
        return {other: token for token, other in enumerate(self.other_ids) if other >= 0}

    @cached_property
    def unused(self) -> tuple[int, ...]:
        """The other model's ids that stand for no token of the formula."""
        used = self.formula_ids.keys() | set(self.ends)
        return tuple(other for other in range(self.other_size) if other not in used)

    @cached_property
    def longest(self) -> int:
        """The most ids that are read for one token."""
        return max(map(len, self.reads), default=0)


def one_vocabulary(tokenizer: Any, size: int, description: Description) -> bool:
    """Whether a model's tokens are those of a formula of this tokenizer and size, and not mapped.

    Raises:
        ModelError: there are no strings to map by, and the sizes differ.
    """
    if tokenizer is not None and description.tokenizer is not None:
        return bool(tokenizer.get_vocab() == description.tokenizer.get_vocab())
    if description.size == size:
        return True
    name = description.name
    lacking = name if description.tokenizer is None else "the formula"
    problem = f"align finds tokens by what they stand for, and {lacking} has no tokenizer"
    problem += f"; {name} has {description.size} tokens, the formula {size}"
    raise ModelError(problem, "give tokenizer: … with the models", name)


def token_map(formula: Vocabulary, other: Vocabulary) -> TokenMap:
    """Map a formula's vocabulary to another model's."""
    texts, other_texts = (token_bytes(side.tokenizer, side.size) for side in (formula, other))
    other_ids, taken = [-1] * formula.size, set()
    for token, number in _pairs(formula, texts, other, other_texts):
        known = token < formula.size and number < other.size
        if known and other_ids[token] < 0 and number not in taken:
            other_ids[token] = number
            taken.add(number)
    end = end_of_turn(formula)
    last = other_ids[end] if end is not None and end < formula.size else -1
    more = sorted((other.ends | {last}) - taken - {-1}) if last >= 0 else []
    reads: list[tuple[int, ...]] = [(number,) if number >= 0 else () for number in other_ids]
    for token, text in texts.texts.items():
        reads[token] = reads[token] or other_texts.encode(text)
    if last >= 0:
        for token in formula.ends & set(range(formula.size)):
            reads[token] = reads[token] or (last,)
    literal = not (texts.kind and other_texts.kind)
    ends = (last, *more) if more else ()
    return TokenMap(tuple(other_ids), tuple(reads), other.size, ends, literal)


def _pairs(
    formula: Vocabulary, texts: TokenBytes, other: Vocabulary, other_texts: TokenBytes
) -> Iterator[tuple[int, int]]:
    """Ids that stand for the same: by role first, then by name, then by text.

    An id that ends the other model's texts stands only for one that ends the formula's.
    """
    ends = end_of_turn(formula), end_of_turn(other)
    sides = (formula.tokenizer, other.tokenizer)
    roles = [tuple(getattr(side, role, None) for side in sides) for role in ROLES]
    for token, number in (ends, *roles):
        if token is not None and number is not None:
            yield token, number
    for name, token in sorted(texts.special.items(), key=lambda item: item[1]):
        number = other_texts.special.get(name)
        if number is not None and (number not in other.ends or token in formula.ends):
            yield token, number
    for token, text in texts.texts.items():
        for number in other_texts.ids.get(text, ()):
            yield token, number


def end_of_turn(side: Vocabulary) -> int | None:
    """The token that ends an answer: what the chat template puts after one, or else the EOS."""
    tokenizer, mark = side.tokenizer, "descant"
    eos: int | None = getattr(tokenizer, "eos_token_id", None)
    if not getattr(tokenizer, "chat_template", None):
        return eos if eos is not None else min(side.ends, default=None)
    turns = [{"role": "user", "content": mark}, {"role": "assistant", "content": mark}]
    try:
        text = rendered(tokenizer, turns)
    except Exception:  # templates raise any exception
        return eos
    _, answer, rest = text.rpartition(mark)
    after = tokenizer(rest, add_special_tokens=False)["input_ids"] if answer else []
    marks = special_ids(tokenizer) | side.ends
    return next((token for token in after if token in marks), eos)
