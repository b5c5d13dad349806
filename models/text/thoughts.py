"""Marks of thought: between which of a text's tokens a model thinks.

A mark that is a token of its model's vocabulary, ``<think>`` of Qwen3, is that token, and no text
that is spelled like it. Any other is the text, however its tokens spell it. What is known of a text
is one small number, which the next token moves by a table: a step reads it on the device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..checkpoint.spec import Marks, ModelSpec
from .token_bytes import special_ids, token_bytes

KNOWN = (  # of DeepSeek-R1, Qwen3 and most others; Mistral; Seed-OSS; Command A; Kimi
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("◁think▷", "◁/think▷"),
)
_BYTES = 256
_TURN = re.compile(r"<[|\uff5c].*[|\uff5c]>")  # names of tokens between the messages of a chat
Mark: TypeAlias = "str | Sequence[int]"


def marks_of(spec: ModelSpec, tokenizer: Any) -> Marks | None:
    """A model's marks: as declared, or found in its vocabulary or its chat template; or None."""
    if spec.reasoning is not None or tokenizer is None:
        return spec.reasoning
    vocabulary = tokenizer.get_vocab()
    template = spec.template or getattr(tokenizer, "chat_template", None)
    written = template if isinstance(template, str) else ""
    if isinstance(template, dict):
        written = str(template.get("default", ""))
    for start, end in KNOWN:
        if (start in vocabulary and end in vocabulary) or (start in written and end in written):
            return Marks(start=start, end=end)
    return None


@dataclass(frozen=True)
class Thoughts:
    """One model's marks, over the tokens of a vocabulary.

    States below ``inside`` are those of a text that is in no thought, others of one that is in one;
    each counts how much of the next mark has been read.

    Attributes:
        marks: of the model.
        tokenizer: or None, where the marks are token ids.
        size: tokens of the vocabulary.
    """

    marks: Marks
    tokenizer: Any
    size: int

    @cached_property
    def inside(self) -> int:
        """The first state inside a thought, right after the mark that begins it."""
        return _length(self._mark(self.marks.start))

    @cached_property
    def table(self) -> Tensor:
        """``(states, size)`` int64: the state after each token."""
        marks = self._mark(self.marks.start), self._mark(self.marks.end)
        counts = [_length(mark) for mark in marks]
        firsts, states = (0, counts[0]), sum(counts)
        table = torch.arange(states)[:, None].repeat(1, self.size)
        by_byte = torch.arange(states)[:, None].repeat(1, _BYTES)
        for mark, first, other in zip(marks, firsts, firsts[::-1], strict=True):
            if isinstance(mark, bytes):
                by_byte[first : first + len(mark)] = _matching(mark, _BYTES, first, other)
        if any(isinstance(mark, bytes) for mark in marks):
            texts = token_bytes(self.tokenizer, self.size).texts
            for length, ids in _by_length(texts).items():
                now = table[:, ids]
                for place in range(length):
                    now = by_byte[now, torch.tensor([texts[token][place] for token in ids])]
                table[:, ids] = now
        for mark, first, other in zip(marks, firsts, firsts[::-1], strict=True):
            if not isinstance(mark, bytes):
                table[first : first + len(mark)] = _matching(mark, self.size, first, other)
        return table

    def after(self, ids: Sequence[int], state: int = 0) -> int:
        """The state of a text after more tokens."""
        for token in ids:
            if 0 <= token < self.size:
                state = self._moves[state].get(token, state)
        return state

    def after_prompt(self, ids: Sequence[int]) -> int:
        """The state of a prompt: only what is behind its last turn of a chat may open a thought."""
        turn = max((i for i, token in enumerate(ids) if token in self._turns), default=-1)
        return self.after(ids[turn + 1 :])

    def counted(self, ids: Sequence[int], state: int) -> int:
        """How many of an answer's tokens are of a thought, its marks among them."""
        count = 0
        for token in ids:
            before, state = state, self.after([token], state)
            count += before >= self.inside or state >= self.inside
        return count

    @cached_property
    def _moves(self) -> list[dict[int, int]]:
        """Per state, the tokens that change it."""
        changed = (self.table != torch.arange(len(self.table))[:, None]).nonzero().tolist()
        moves: list[dict[int, int]] = [{} for _ in self.table]
        states = self.table.tolist()
        for state, token in changed:
            moves[state][token] = states[state][token]
        return moves

    def _mark(self, mark: Mark) -> bytes | Sequence[int]:
        """A mark as token ids, or as the bytes of a text."""
        if not isinstance(mark, str):
            return mark
        token = None if self.tokenizer is None else self.tokenizer.get_vocab().get(mark)
        return mark.encode() if token is None else [token]

    @cached_property
    def _turns(self) -> frozenset[int]:
        """The tokens that stand between the messages of a chat."""
        if self.tokenizer is None:
            return frozenset()
        added: Mapping[int, Any] = getattr(self.tokenizer, "added_tokens_decoder", {})
        named = {number for number, token in added.items() if _TURN.fullmatch(str(token))}
        marks = (self._mark(mark) for mark in (self.marks.start, self.marks.end))
        own = {token for mark in marks if not isinstance(mark, bytes) for token in mark}
        return frozenset({*special_ids(self.tokenizer), *named} - own)


def _length(mark: bytes | Sequence[int]) -> int:
    return len(mark)


def _by_length(texts: Mapping[int, bytes]) -> dict[int, list[int]]:
    """The tokens of each length, in bytes."""
    lengths: dict[int, list[int]] = {}
    for token, text in texts.items():
        lengths.setdefault(len(text), []).append(token)
    return lengths


def _matching(pattern: Sequence[int], symbols: int, first: int, done: int) -> Tensor:
    """``(len(pattern), symbols)``: how much of a pattern a text ends with, symbol by symbol.

    The rule of Knuth, Morris and Pratt (1977), as a table.

    Args:
        pattern: what is looked for.
        symbols: how many there are.
        first: the number of the state without any of it.
        done: the state after all of it.
    """
    table = torch.full((len(pattern), symbols), first)
    fallback = 0  # how much of it the text ends with, without its first symbol
    for length, symbol in enumerate(pattern):
        table[length] = table[fallback]
        table[length, symbol] = first + length + 1 if length + 1 < len(pattern) else done
        if length:
            fallback = int(table[fallback, symbol]) - first
    return table
