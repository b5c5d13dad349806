"""Attention of a few queries per row over the live part of a cache, wherever each row ends.

Keys and values lie in pages, and a table says which pages a row has. A mask would say which keys a
query sees, and is as large as the cache. Here a query's own positions say it: the rule is that of
``cache.window``, and what no query of a row sees is not read. On a CPU it is that mask; on CUDA it
is the kernels of ``decode_kernel``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .gpu import Cost, why_no_triton

MAX_QUERIES = 16  # per row
CHUNK = 256  # keys: results depend on it and on SPLITS, and on nothing else of how it is launched
SPLITS = 32
MAX_SIZE = 256  # of a head
LOG2_E = 1.4426950408889634
NO_WINDOW = 1 << 30  # keys; no text is as long
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def live_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: Tensor,
    positions: Tensor,
    cache_positions: Tensor,
    starts: Tensor | None = None,
    window: int = 0,
    scale: float | None = None,
) -> Tensor:
    """Attention of each query to the keys before it in its row, and to its own branch.

    A query sees the cache positions below its start, and from its branch's first key to its own.
    A key below the start is at its cache position in the text, too; one of the branch is as far
    from the query there as it is in the cache. Pages, keys and values beyond all of these are not
    read, and may be anything.

    Args:
        query: ``(n, heads, q, size)``; ``q`` is at most ``MAX_QUERIES``.
        key: ``(pages, groups, page, size)``, a view of a pool, and ``value`` alike; a page is a
            power of two of keys.
        tables: ``(n, most)`` int32: cache position p of row i is in page
            ``tables[i, p // page]``, at ``p % page``. Entries that a row does not need may name
            any page of the pool.
        positions: ``(n, q)`` int64 of each query in its text.
        cache_positions: ``(n, q)`` int64, where the cache has each query's own key: at its
            position, or after it.
        starts: ``(n, q)`` int64, where in the text each query's alternative begins; None where
            alternatives have one token.
        window: a query sees so many keys, its own among them; 0 is all.
        scale: of the products; None is ``size ** -0.5``.

    Returns:
        ``(n, q, heads, size)``, contiguous, in the query's dtype.
    """
    assert query.shape[2] <= MAX_QUERIES and query.dtype == key.dtype == value.dtype
    assert key.stride(3) == value.stride(3) == 1, "a pool is not copied"
    assert tables.dtype == torch.int32 and key.shape[2].bit_count() == 1
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    starts = positions if starts is None else starts
    places = positions, cache_positions, starts
    return _attend(query, key, value, tables, *places, window, scale)  # type: ignore[no-any-return]


@torch.library.custom_op("descant::live_attention", mutates_args=(), device_types="cpu")
def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: Tensor,
    positions: Tensor,
    cache_positions: Tensor,
    starts: Tensor,
    window: int,
    scale: float,
) -> Tensor:
    places = positions, cache_positions, starts
    return masked_attention(query, key, value, tables, *places, window, scale)


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: Tensor,
    positions: Tensor,
    cache_positions: Tensor,
    starts: Tensor | None = None,
    window: int = 0,
    scale: float | None = None,
) -> Tensor:
    """The same as ``live_attention``, by a mask over all keys of the tables, in float32."""
    n, heads, q, size = query.shape
    groups, length = key.shape[1], tables.shape[1] * key.shape[2]
    starts = positions if starts is None else starts
    at, own, start = (x[:, None, :, None] for x in (positions, cache_positions, starts))
    place, seen = torch.arange(length, device=query.device), at - (window or NO_WINDOW)
    branch = (place >= own - (at - start)) & (place <= own) & (place + at - own > seen)
    mask = ((place < start) & (place > seen)) | branch
    queries = query.float().reshape(n, groups, heads // groups, q, size)
    keys, values = (
        x[tables].transpose(1, 2).reshape(n, groups, 1, length, -1) for x in (key, value)
    )
    scores = queries @ keys.float().mT * (size**-0.5 if scale is None else scale)
    weights = scores.masked_fill_(~mask[:, :, None], -torch.inf).softmax(dim=-1)
    dead = ~mask.any(dim=2)[:, :, None, :, None]
    mixed = weights @ values.float().masked_fill(dead, 0)  # a weight of 0 leaves what is no number
    return mixed.reshape(n, heads, q, -1).transpose(1, 2).to(query.dtype).contiguous()


@_attend.register_fake
def _result(query: Tensor, key: Tensor, value: Tensor, *settings: Any) -> Tensor:
    n, heads, q, _ = query.shape
    return query.new_empty(n, q, heads, value.shape[3])


class Launches(NamedTuple):
    """How both kernels are launched for a shape.

    Attributes:
        rows: of a tile of queries.
        keys: of a block.
        warps: of the first kernel.
        stages: blocks of keys and values in shared memory, one of them in use.
        partial_grid: thread blocks of the first kernel, and ``merge_grid`` of the second.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    partial_grid: tuple[int, int]
    merge_grid: tuple[int]


def launches(
    query_shape: Sequence[int], groups: int, itemsize: int, capacity: int, value_size: int = 0
) -> Launches:
    """The launches of a call, by its shapes alone.

    A block of keys takes 16 KB, so that three of keys and values fit the shared memory of an A100
    and an H100 twice or more, and a tile of queries is as large as registers hold without spills.

    Args:
        query_shape: ``(n, heads, q, size)``.
        groups: heads of keys.
        itemsize: bytes of an element.
        capacity: keys that each row's table has room for.
        value_size: of a head of values, where it is another.
    """
    n, heads, q, size = query_shape
    width = padded_size(max(size, value_size)) * itemsize  # bytes of a key
    rows = min(padded_size(heads // groups * q), 128, (1 << 16) // (width * itemsize))
    tiles = -(-heads // groups * q // rows)
    return Launches(
        rows=rows,
        keys=min(64, (1 << 14) // width),
        warps=4 if rows * width <= 1 << 12 else 8,
        stages=3,
        partial_grid=(n * groups * tiles, min(SPLITS, -(-capacity // CHUNK))),
        merge_grid=(n * q * heads,),
    )


def cost(
    query_shape: Sequence[int],
    groups: int,
    itemsize: int,
    lengths: Sequence[int],
    capacity: int,
    positions: Sequence[int] | None = None,
    window: int = 0,
    value_size: int = 0,
    page: int = CHUNK,
) -> Cost:
    """What a call of ``live_attention`` reads, writes and computes, from numbers on the host.

    A thread block counts what it reads once. Keys are counted again for each tile of queries and
    each row that shares a page, though a second one may find them in the cache of the chip.

    Args:
        query_shape: ``(n, heads, q, size)``.
        groups: heads of keys.
        itemsize: bytes of an element of queries, keys and values.
        lengths: of each row, cache positions up to the last that one of its queries sees.
        capacity: keys that each row's table has room for.
        positions: of each row's first query in its text; None is ``q`` before the row's length.
            They matter where there is a window.
        window: as in ``live_attention``.
        value_size: of a head of values, where it is another.
        page: keys of a page.
    """
    n, heads, q, size = query_shape
    value_size = value_size or size
    plan = launches(query_shape, groups, itemsize, capacity, value_size)
    programs, splits = plan.partial_grid
    if positions is None:
        positions = [length - q for length in lengths]
    firsts = [max(0, at - (window or NO_WINDOW) + 1) for at in positions]
    pairs = list(zip(firsts, lengths, strict=True))
    keys = sum(length - first for first, length in pairs)
    filled = sum(min(SPLITS, -(-length // CHUNK) - first // CHUNK) for first, length in pairs)
    entries = sum(_table_entries(first, length, page) for first, length in pairs)
    cached = keys * (programs // n) * (size + value_size) * itemsize
    parts = filled * heads * q * value_size * 4
    sums = n * heads * q * splits * 4
    places = programs * splits * 3 * q * 8 + entries * (programs // n) * 4
    return Cost(
        read=cached + filled * heads * q * size * itemsize + places + parts + sums,
        written=parts + sums + n * heads * q * value_size * itemsize,
        flops=2 * keys * heads * q * (size + value_size),
        launches=2,
        blocks=programs * splits + plan.merge_grid[0],
        cached=cached,
    )


def _table_entries(first: int, end: int, page: int) -> int:
    """How many of a row's table its thread blocks read for one group and tile, all splits."""
    step = min(page, CHUNK)
    places = range(first // step * step, end, step)
    return len({(place // CHUNK % SPLITS, place // page) for place in places})


def why_not(
    head_size: int,
    value_size: int,
    dtype: torch.dtype,
    capability: tuple[int, int] | None = None,
) -> str | None:
    """Why the kernels cannot do a layer, in words; None where they can.

    Any number of query heads may share a key: they take as many tiles as they need.

    Args:
        head_size: of queries and keys.
        value_size: of values.
        dtype: of all three.
        capability: of the GPU, for CUDA; None leaves it unasked.
    """
    if any(size % 8 or not 8 <= size <= MAX_SIZE for size in (head_size, value_size)):
        sizes = " and ".join(str(size) for size in dict.fromkeys((head_size, value_size)))
        return f"heads of size {sizes}: multiples of 8 up to {MAX_SIZE} are taken"
    if dtype not in DTYPES:
        name = str(dtype).removeprefix("torch.")
        return f"keys in {name}: {', '.join(DTYPES.values())} are taken"
    return why_no_triton(capability)


def padded_size(size: int) -> int:
    """The power of two that a side of a block is padded to; tensor cores take 16 or more."""
    return max(16, 1 << (size - 1).bit_length())


@_attend.register_kernel("cuda")
def launch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: Tensor,
    positions: Tensor,
    cache_positions: Tensor,
    starts: Tensor,
    window: int,
    scale: float,
) -> Tensor:
    """Two launches on the current stream, without a wait; a graph can hold them."""
    from . import decode_kernel

    n, heads, queries, size = query.shape
    groups, page, value_size = key.shape[1], key.shape[2], value.shape[3]
    capacity = tables.shape[1] * page
    plan = launches(query.shape, groups, query.itemsize, capacity, value_size)
    splits = plan.partial_grid[1]
    query = query if query.stride(3) == 1 else query.contiguous()
    tables = tables if tables.stride(1) == 1 else tables.contiguous()
    places = [x.contiguous() for x in (positions, cache_positions, starts)]
    merged = query.new_empty(n, queries, heads, value_size)
    parts = query.new_empty(*plan.merge_grid, splits, value_size, dtype=torch.float32)
    sums = query.new_empty(*plan.merge_grid, splits, dtype=torch.float32)
    guard: Any = torch.cuda.device(query.device) if query.is_cuda else nullcontext()
    with guard:
        decode_kernel.partial_attention[plan.partial_grid](
            query, key, value, tables, *places, parts, sums,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], tables.stride(0),
            queries, groups, capacity, window or NO_WINDOW, scale * LOG2_E,
            EACH=heads // groups, SIZE=size, VALUE_SIZE=value_size,
            BLOCK_SIZE=padded_size(size), BLOCK_VALUE=padded_size(value_size),
            ROWS=plan.rows, KEYS=plan.keys, PAGE=page, CHUNK=CHUNK, SPLITS=SPLITS,
            QUERIES=MAX_QUERIES,
            num_warps=plan.warps, num_stages=plan.stages, enable_fp_fusion=True,
        )  # fmt: skip
        decode_kernel.merge_parts[plan.merge_grid](
            parts, sums, merged, splits,
            VALUE_SIZE=value_size, BLOCK_VALUE=padded_size(value_size), SPLITS=SPLITS,
            enable_fp_fusion=True,
        )  # fmt: skip
    return merged
