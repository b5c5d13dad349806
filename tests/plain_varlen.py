"""What torch documents of ``varlen_attn``, in plain torch: its own needs a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def documented(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor,
    max_q: int, max_k: int, *, return_aux: Any = None, scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
    seqused_k: Tensor | None = None, block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:  # fmt: skip
    """torch 2.13's ``varlen_attn``, one text and one head at a time.

    Queries are the last of the keys that are used: a causal mask is aligned at the bottom right.
    """
    assert num_splits == 1 and block_table is None and return_aux is None
    assert seqused_k is not None and {cu_seq_q.dtype, cu_seq_k.dtype, seqused_k.dtype} == {
        torch.int32
    }
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    heads, groups = query.shape[1], key.shape[1]
    assert heads == groups or enable_gqa
    left, right = window_size
    result = torch.full((*query.shape[:2], value.shape[2]), torch.nan)
    for text in range(len(cu_seq_q) - 1):
        queries = slice(int(cu_seq_q[text]), int(cu_seq_q[text + 1]))
        first, used = int(cu_seq_k[text]), int(seqused_k[text])
        q = queries.stop - queries.start
        assert q <= max_q and used <= max_k and first + used <= len(key)
        position = torch.arange(used - q, used)[:, None]
        at = torch.arange(used)
        seen = (at >= position - left if left >= 0 else at >= 0) & (
            at <= position + right if right >= 0 else at >= 0
        )
        for head in range(heads):
            keys, values = (
                x[first : first + used, head // (heads // groups)] for x in (key, value)
            )
            scores = query[queries, head] @ keys.T * (scale or query.shape[2] ** -0.5)
            weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
            result[queries, head] = weights @ values
    return result
