"""Pools of pages as tests lay them out: pages in any order, and nothing where nothing is live."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def shuffled(ends: Sequence[int], page: int, most: int = 0, seed: int = 0) -> Tensor:
    """``(n, most)`` int32: pages for so many keys of each row, in no order; 0 where none is needed.

    Page 0 is nobody's.
    """
    needed = [-(-end // page) for end in ends]
    generator = torch.Generator().manual_seed(seed)
    numbers = 1 + torch.randperm(sum(needed) + 2, generator=generator)  # two are nobody's
    tables = torch.zeros(len(ends), max(most, *needed), dtype=torch.int32)
    for row, pages in enumerate(numbers[: sum(needed)].split(needed)):
        tables[row, : len(pages)] = pages
    return tables


def pool_of(
    rows: Tensor, tables: Tensor, ends: Sequence[int], page: int, dead: float = math.nan
) -> Tensor:
    """``(pages, groups, page, size)``, a view of a pool, with each row's keys up to its end.

    Args:
        rows: ``(n, L, groups, size)``.
        tables: of their pages; rows that share pages have the same keys there.
        dead: what is everywhere else.
    """
    pool = torch.full((int(tables.max()) + 3, page, *rows.shape[2:]), dead, dtype=rows.dtype)
    for row, end in enumerate(ends):
        at = torch.arange(end)
        pool[tables[row].long()[at // page], at % page] = rows[row, :end]
    return pool.transpose(1, 2)
