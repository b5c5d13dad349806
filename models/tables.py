"""Models small enough to read: a table of scores and a table of rewards.

They replace checkpoints in tests and in examples that run in milliseconds; results can be worked
out on paper.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import ArgumentError
from .cache.row_lane import RowLane
from .cache.rows import Join
from .combinations import Combination
from .footprint import Footprint, Held


class TableLane(RowLane):
    """A lane whose outputs depend on the last token alone."""

    def __init__(self, table: Tensor) -> None:
        if table.ndim != 2 or table.shape[0] != table.shape[1]:
            raise ArgumentError(f"a table is (V, V), not {tuple(table.shape)}")
        self.table, self.device = table.float(), table.device
        self.vocabulary = len(table)
        self.reserve(0, 0)

    @classmethod
    def random(cls, vocabulary: int, seed: int, *more: Any, **options: Any) -> Self:
        """A table of standard normal numbers from a seed; other arguments as the class takes."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randn(vocabulary, vocabulary, generator=generator), *more, **options)

    def lane(self, vocabulary: int) -> Self:
        """Another lane over the same table, cut to ids below ``vocabulary``."""
        lane = copy(self)
        lane.vocabulary = vocabulary
        lane.reserve(0, 0)
        return lane

    def admit(
        self, prompts: Sequence[Sequence[int]], combinations: Sequence[Combination]
    ) -> Generator[int, None, Join]:
        yield from ()
        cached = [len(ids) for ids in prompts]
        return lambda: self.rows.admit(prompts, cached, combinations)

    def footprint(self) -> Footprint:
        """The table; a forward works in one row of it per token."""
        size = self.table.nbytes
        row = self.table.shape[1] * self.table.itemsize
        memory = {id(self.table): Held(self.device, size)}
        return Footprint(size, memory=memory, work=((row, 0),))

    why_eager = "it is a table"

    def graph_key(self, ahead: int) -> Hashable:
        return self.rows.count


class TableModel(TableLane):
    """A language model by table.

    Args:
        table: ``(V, V)``; row u holds the logits of what follows token u.
        eos: the token that ends a text, if any.

    Raises:
        ArgumentError: the table is not square.

    Examples:
        >>> import torch, descant
        >>> base = descant.TableModel(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
        >>> descant.compile("base", {"base": base}).generate([0], max_new_tokens=3)[0].token_ids
        [1, 0, 1]
    """

    def __init__(self, table: Tensor, eos: int | None = None) -> None:
        super().__init__(table)
        self.eos = eos

    def forward(self) -> bool:
        return True

    def logits(self) -> Tensor:
        return self.table[self.rows.last_tokens(), : self.vocabulary]

    def logits_of_last(self, tokens: int) -> Tensor:
        ids = self.rows.tokens_at(self.rows.last_positions(tokens))
        return self.table[ids, : self.vocabulary]


class RuleReward(TableLane):
    """A reward by rule: ``table[u, v]`` for the candidate v after the token u.

    Args:
        table: ``(V, V)``; row u holds the rewards of what follows token u.

    Raises:
        ArgumentError: the table is not square.

    Examples:
        >>> import torch, descant
        >>> models = {"base": descant.TableModel(torch.zeros(3, 3))}
        >>> models["rm"] = descant.RuleReward(torch.tensor([[0.0, 0, 1], [0, 0, 1], [1, 0, 0]]))
        >>> decoder = descant.compile("base | rerank(rm, k=3, w=1)", models)
        >>> decoder.generate([0], max_new_tokens=3)[0].token_ids
        [2, 0, 2]
    """

    def rewards(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """``(rows, k)`` candidates to ``(rows, k, 1)`` rewards, and ``(rows, 1)`` of the texts."""
        last = self.rows.last_tokens()
        before = self.rows.tokens_at(self.rows.last_positions(2))[:, 0]
        return self.table[last[:, None], candidates][..., None], self.table[before, last][:, None]

    def rewards_along(self, candidates: Tensor, after: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """``(rows, positions, k)`` to ``(rows, positions, k, 1)``, and ``(rows, positions, 1)``."""
        ends = self.rows.last_positions(1) - after
        before, last = (self.rows.tokens_at((ends - back).clamp(min=0)) for back in (1, 0))
        rewards, of_texts = self.table[last[..., None], candidates], self.table[before, last]
        return rewards[..., None], of_texts[..., None]

    def plan_line(self, candidates: str) -> str:
        return f"table, {candidates} looked up"

    def keep(self, choice: Tensor, tokens: Tensor) -> None:
        """``(rows,)`` the candidate that each row chose, and its token."""
        self.rows.feed(tokens)
