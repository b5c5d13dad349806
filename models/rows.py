"""Rows: a dense pool in which each request holds one row per term.

Rows 0 to ``count`` are in use and nothing else is, so that a forward works on views and never on
copies. A row that leaves is replaced by the last one, once, when it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Rows:
    """Lengths, pending tokens and adapters of the rows in use, on the device and on the host.

    Attributes:
        count: rows in use.
        lengths: ``(rows,)`` int64, tokens in each row's cache.
        pending: ``(rows,)`` int64, the token that each row reads next.
        adapters: ``(rows,)`` int64, 0 for the bare weights.
    """

    def __init__(self, rows: int, capacity: int, device: torch.device) -> None:
        self.capacity, self.device = capacity, device
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.pending = torch.zeros(rows, dtype=torch.long, device=device)
        self.adapters = torch.zeros(rows, dtype=torch.long, device=device)
        self.index = torch.arange(rows, device=device)[:, None]
        self._lengths: list[int] = []
        self._adapters: list[int] = []

    @property
    def count(self) -> int:
        """How many rows are in use."""
        return len(self._lengths)

    @property
    def longest(self) -> int:
        """Tokens in the fullest row, known without asking the device."""
        return max(self._lengths, default=0)

    @property
    def adapted(self) -> bool:
        """Whether any row in use has an adapter."""
        return any(self._adapters)

    def admit(self, lengths: Sequence[int], adapters: Sequence[int]) -> slice:
        """Take new rows at the end of those in use."""
        first = self.count
        self._lengths += lengths
        self._adapters += adapters
        new = slice(first, self.count)
        self.lengths[new] = torch.tensor(lengths, device=self.device)
        self.adapters[new] = torch.tensor(adapters, device=self.device)
        return new

    def advance(self) -> None:
        """Every row in use has read one token more."""
        self.lengths[: self.count] += 1
        self._lengths = [length + 1 for length in self._lengths]

    def release(self, row: int) -> int:
        """Give a row up; the last row, whose number is returned, takes its place."""
        last = self.count - 1
        for tensor in (self.lengths, self.pending, self.adapters):
            tensor[row] = tensor[last]
        for values in (self._lengths, self._adapters):
            values[row] = values[last]
            values.pop()
        return last
