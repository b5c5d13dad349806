"""Which rows are in a thought: a number per row, which every token moves by a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class ThoughtTerms(Protocol):
    """A bound plan, as far as its models' thoughts go."""

    @property
    def thoughts(self) -> Any: ...
    @property
    def thinking_term(self) -> int: ...


class TextThoughts(NamedTuple):
    """Where texts are among the marks of thought.

    Attributes:
        states: ``(rows,)`` int64.
        table: ``(states, V)`` uint8, the state after each token.
        inside: the first state of a text that is in a thought.
    """

    states: Tensor
    table: Tensor
    inside: int

    def numbers(self) -> Tensor:
        """``(rows, 1)`` float32: 1 in a thought, else 0."""
        return (self.states >= self.inside)[:, None].float()

    def after(self, tokens: Tensor) -> TextThoughts:
        """The same texts after one token each, ``(rows,)``."""
        return self._replace(states=self.table[self.states, tokens].long())

    def along(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """``(rows, longest + 1)`` int64: the states before each of a row's tokens and after all.

        A row with fewer tokens stays as it is after its last.
        """
        most = max(map(len, tokens), default=0)
        columns, texts = [self.states], self
        if most:
            ids = torch.tensor([[*each, *[-1] * (most - len(each))] for each in tokens])
            for column in ids.to(self.states.device).unbind(1):
                after = texts.after(column.clamp(min=0)).states
                texts = self._replace(states=torch.where(column < 0, texts.states, after))
                columns.append(texts.states)
        return torch.stack(columns, dim=1)


class RowThoughts:
    """The rows of a batch whose formula says ``thinking``.

    Args:
        bound: the plan.
        states: ``(slots,)`` int64, of all slots.
    """

    def __init__(self, bound: ThoughtTerms, states: Tensor) -> None:
        self._thoughts, self._term = bound.thoughts, bound.thinking_term
        table = self._thoughts.table.to(states.device, torch.uint8)
        self._texts = TextThoughts(states, table, self._thoughts.inside)

    def of_step(self, width: int) -> TextThoughts:
        """Those of the first slots."""
        return self._texts._replace(states=self._texts.states[:width])

    def start(self, request: Any, answer: Sequence[int]) -> int:
        """The state of a row after its prompt and an answer."""
        known = request.states.get("thought")
        if known is None:
            prompts = (*request.prompts, *request.draft_prompts)
            known = request.states["thought"] = self._thoughts.after_prompt(prompts[self._term])
        state: int = self._thoughts.after(answer, known)
        return state

    def read(self, tokens: Tensor) -> None:
        """Let the first slots read one token each, ``(slots,)``."""
        texts = self.of_step(len(tokens))
        texts.states.copy_(texts.after(tokens).states)

    def read_all(self, tokens: Sequence[Sequence[int]]) -> None:
        """Let the first slots read all of these tokens."""
        texts = self.of_step(len(tokens))
        texts.states.copy_(texts.along(tokens)[:, -1])
