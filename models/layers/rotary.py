"""From the joined product of queries, keys and values to where attention reads them.

Queries and keys are turned by their position (RoFormer: Su et al. 2021, in halves, as Llama does),
with a norm of every head before it where a model has one, and keys and values go to the pages of a
cache. On a CPU it is transformers' operations; on CUDA it is one launch of a kernel of
``layer_kernel``.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ..kernels.gpu import Cost
from .norms import plain_rms_norm


def rotate_into_pages(
    joined: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    places: Tensor,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Write keys and values into their pages, and give the queries.

    Args:
        joined: ``(n, q, (heads + 2 * groups) * size)``: queries, keys and values, by heads.
        cosines, sines: ``(n, q, size)`` of each token's position.
        keys, values: ``(pages, page, groups, size)``, views of a pool; they are written to.
        pages, places: ``(n, q)`` int64, the page of each token, and where it is in the page.
        norms: ``(size,)`` weights of the norms of queries and of keys, where there are any.
        eps: of the norms.

    Returns:
        ``(n, heads, q, size)``, as ``live_attention`` reads them.
    """
    size = keys.shape[-1]
    assert keys.shape == values.shape and keys.stride(3) == values.stride(3) == 1
    assert joined.dtype == cosines.dtype == sines.dtype == keys.dtype == values.dtype
    assert cosines.shape == sines.shape == (*joined.shape[:2], size) and size % 2 == 0
    query_norm, key_norm = norms or (None, None)
    where = keys, values, pages, places
    return _rotate(joined, cosines, sines, *where, query_norm, key_norm, eps).transpose(1, 2)  # type: ignore[no-any-return]


@torch.library.custom_op(
    "descant::rotate_into_pages", mutates_args=("keys", "values"), device_types="cpu"
)
def _rotate(
    joined: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    places: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
) -> Tensor:
    norms = None if query_norm is None or key_norm is None else (query_norm, key_norm)
    return plain_rotation(joined, cosines, sines, keys, values, pages, places, norms, eps)


def plain_rotation(
    joined: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    places: Tensor,
    norms: tuple[Tensor, Tensor] | None = None,
    eps: float = 0.0,
) -> Tensor:
    """The same as ``rotate_into_pages`` by torch's operations, ``(n, q, heads, size)``."""
    groups, size = keys.shape[2:]
    by_head = joined.view(*joined.shape[:2], -1, size)
    heads = by_head.shape[2] - 2 * groups
    query, key, value = torch.split(by_head, [heads, groups, groups], dim=2)
    if norms is not None:
        query, key = plain_rms_norm(query, norms[0], eps), plain_rms_norm(key, norms[1], eps)
    keys[pages, places] = _turned(key, cosines, sines)
    values[pages, places] = value
    return _turned(query, cosines, sines)


def _turned(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """``(n, q, heads, size)`` by their positions, as transformers' ``apply_rotary_pos_emb``."""
    first, second = heads.chunk(2, dim=-1)
    pairs = torch.cat((-second, first), dim=-1)
    return heads * cosines[:, :, None] + pairs * sines[:, :, None]


@_rotate.register_fake
def _result(joined: Tensor, cosines: Tensor, sines: Tensor, keys: Tensor, *more: Any) -> Tensor:
    groups, size = keys.shape[2:]
    n, q, columns = joined.shape
    return joined.new_empty(n, q, columns // size - 2 * groups, size)


def cost(tokens: int, heads: int, groups: int, size: int, itemsize: int, norms: bool) -> Cost:
    """What a launch reads and writes; a thread block is one head of one token.

    Args:
        tokens: of all rows.
        heads: of queries, and ``groups`` those of keys.
        size: of a head, in numbers of ``itemsize`` bytes.
        norms: whether queries and keys have norms.
    """
    turned, row = tokens * (heads + groups), size * itemsize
    blocks = turned + tokens * groups
    return Cost(
        read=blocks * (row + 2 * 8) + turned * (2 + norms) * row,
        written=blocks * row, launches=1, blocks=blocks,
    )  # fmt: skip


@_rotate.register_kernel("cuda")
def launch(
    joined: Tensor,
    cosines: Tensor,
    sines: Tensor,
    keys: Tensor,
    values: Tensor,
    pages: Tensor,
    places: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
) -> Tensor:
    """One launch on the current stream, without a wait; a graph can hold it."""
    from . import layer_kernel

    n, q, columns = joined.shape
    groups, size = keys.shape[2:]
    heads = columns // size - 2 * groups
    joined, cosines, sines = joined.contiguous(), cosines.contiguous(), sines.contiguous()
    norms = query_norm is not None and key_norm is not None
    weights = (query_norm, key_norm) if norms else (joined, joined)  # which nothing reads
    queries = joined.new_empty(n, q, heads, size)
    guard: Any = torch.cuda.device(joined.device) if joined.is_cuda else nullcontext()
    with guard:
        layer_kernel.rotate_into_pages[n * q, heads + 2 * groups](
            joined, cosines, sines, *weights, pages.contiguous(), places.contiguous(),
            queries, keys, values, columns, *keys.stride()[:3], *values.stride()[:3],
            heads, groups, eps,
            NORMS=norms, SIZE=size, BLOCK=1 << (size - 1).bit_length(),
            num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
    return queries
