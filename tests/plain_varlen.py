"""What torch documents of ``varlen_attn``, in plain torch: its own needs a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def documented(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor | None,
    max_q: int, max_k: int, *, return_aux: Any = None, scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
    seqused_k: Tensor | None = None, block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:  # fmt: skip
    """torch 2.13's ``varlen_attn`` over pages of keys, one text and one head at a time.

    Queries are the last of the keys that are used: a causal mask is aligned at the bottom right.
    Its second version of flash attention wants ``cu_seq_k`` and asks nothing of it; the third
    wants None.
    """
    assert num_splits == 1 and return_aux is None  # torch 2.13 is wrong where pages are split
    assert seqused_k is not None and block_table is not None
    assert (cu_seq_k is None) == (torch.nn.attention.current_flash_attention_impl() is not None)
    lengths = [cu_seq_q, seqused_k, block_table, *([] if cu_seq_k is None else [cu_seq_k])]
    assert {each.dtype for each in lengths} == {torch.int32}
    tensors = query, key, value, block_table
    assert {each.stride(-1) for each in tensors} == {1}
    page, heads, groups = key.shape[1], query.shape[1], key.shape[2]
    assert heads == groups or enable_gqa
    assert len(cu_seq_q) - 1 == len(seqused_k) == len(block_table)
    left, right = window_size
    result = torch.full((*query.shape[:2], value.shape[3]), torch.nan)
    for text in range(len(cu_seq_q) - 1):
        queries = slice(int(cu_seq_q[text]), int(cu_seq_q[text + 1]))
        used, q = int(seqused_k[text]), queries.stop - queries.start
        assert q <= max_q and used <= max_k and used <= block_table.shape[1] * page
        position = torch.arange(used - q, used)[:, None]
        at = torch.arange(used)
        pages = block_table[text, at // page]
        seen = (at >= position - left if left >= 0 else at >= 0) & (
            at <= position + right if right >= 0 else at >= 0
        )
        for head in range(heads):
            keys, values = (x[pages, at % page, head // (heads // groups)] for x in (key, value))
            scores = query[queries, head] @ keys.T * (scale or query.shape[2] ** -0.5)
            weights = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)
            result[queries, head] = weights @ values
    return result
