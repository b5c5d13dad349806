"""Attention of a few queries per row over pages of a cache, by live lengths: the Triton kernels.

Flash-decoding (Dao, Haziza, Massa and Sizov 2023, https://pytorch.org/blog/flash-decoding): one
launch attends to parts of the keys, with the running softmax of Milakov and Gimelshein (2018,
arXiv:1805.02867), and a second merges the parts by their log-sum-exps. A row's keys are split by
their positions alone, in chunks of one size, so that neither its neighbours nor its pages, their
size and the width of the table change the order of its sums. Lengths and tables are read on the
device: a CUDA graph can be replayed while texts grow.

This file imports triton. ``live_attention`` chooses the shapes, and imports it when it launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["table_row", "queries", "capacity", "window"])
def partial_attention(
    query, key, value, tables, positions, cache_positions, starts,
    parts, sums,
    query_row, query_head, query_at, key_page, key_group, key_at,
    value_page, value_group, value_at, table_row,
    queries, groups, capacity, window, scale,
    EACH: tl.constexpr, SIZE: tl.constexpr, VALUE_SIZE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, BLOCK_VALUE: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, PAGE: tl.constexpr, CHUNK: tl.constexpr,
    SPLITS: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """Attention of a tile of one row's and group's queries to the chunks of one split.

    Row ``m`` of the tile is head ``m % EACH`` of the group at query ``m // EACH``. The scale
    includes ``log2(e)``: sums are of powers of two.
    """
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    tiles = (EACH * queries + ROWS - 1) // ROWS
    group = tl.program_id(0) // tiles % groups
    row = (tl.program_id(0) // (tiles * groups)).to(tl.int64)

    # first to end: what any query of the row sees. No branch is before its place in the text
    at = tl.arange(0, QUERIES)
    here = row * queries + at
    used = at < queries
    position = tl.load(positions + here, mask=used, other=0).to(tl.int32)
    own = tl.load(cache_positions + here, mask=used, other=0).to(tl.int32)
    start = tl.load(starts + here, mask=used, other=0).to(tl.int32)
    first = tl.min(tl.where(used, position - window + 1, capacity), 0)
    first = tl.maximum(first, 0)
    end = tl.max(tl.where(used, tl.maximum(start, own + 1), 0), 0)
    end = tl.minimum(end, capacity)

    # chunk c is of split c mod SPLITS; this split's first live one, and how many there are
    first_chunk = first // CHUNK
    chunk = first_chunk + ((split - first_chunk) & (SPLITS - 1))
    chunks = ((end + CHUNK - 1) // CHUNK - chunk + SPLITS - 1) // SPLITS

    # the tile's rows
    m = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    mine = m < EACH * queries
    head = group * EACH + m % EACH
    out = (row * queries + m // EACH) * groups * EACH + head  # the row of the result
    if chunks <= 0:
        tl.store(sums + out * splits + split, tl.full([ROWS], float("-inf"), tl.float32), mask=mine)
        return

    here = row * queries + m // EACH
    position = tl.load(positions + here, mask=mine, other=0).to(tl.int32)[:, None]
    own = tl.load(cache_positions + here, mask=mine, other=-1).to(tl.int32)[:, None]
    start = tl.load(starts + here, mask=mine, other=0).to(tl.int32)[:, None]
    branch = tl.maximum(own - (position - start), own - window + 1)
    d = tl.arange(0, BLOCK_SIZE)
    dv = tl.arange(0, BLOCK_VALUE)
    places = row * query_row + head * query_head + m // EACH * query_at
    q = tl.load(
        query + places[:, None] + d[None, :], mask=mine[:, None] & (d < SIZE)[None, :], other=0.0
    )
    key += group.to(tl.int64) * key_group
    value += group.to(tl.int64) * value_group
    tables += row * table_row

    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, BLOCK_VALUE], tl.float32)
    BLOCKS: tl.constexpr = CHUNK // KEYS
    last_chunk = chunk + (chunks - 1) * SPLITS
    begin = tl.maximum(first - chunk * CHUNK, 0) // KEYS
    stop = (chunks - 1) * BLOCKS
    stop += tl.minimum((end - last_chunk * CHUNK + KEYS - 1) // KEYS, BLOCKS)
    for block in tl.range(begin, stop):
        base = (chunk + block // BLOCKS * SPLITS) * CHUNK + block % BLOCKS * KEYS
        step = tl.arange(0, KEYS)
        c = base + step
        live = (c >= first) & (c < end)
        if PAGE >= KEYS:  # the whole block is in one page, and some of it is live
            page = tl.load(tables + base // PAGE).to(tl.int64)
            k_at = key + page * key_page + (base % PAGE).to(tl.int64) * key_at
            k_at += step[:, None] * key_at
            v_at = value + page * value_page + (base % PAGE).to(tl.int64) * value_at
            v_at += step[:, None] * value_at
        else:
            page = tl.load(tables + c // PAGE, mask=live, other=0).to(tl.int64)[:, None]
            k_at = key + page * key_page + (c % PAGE)[:, None] * key_at
            v_at = value + page * value_page + (c % PAGE)[:, None] * value_at
        k = tl.load(k_at + d[None, :], mask=live[:, None] & (d < SIZE)[None, :], other=0.0)
        v = tl.load(v_at + dv[None, :], mask=live[:, None] & (dv < VALUE_SIZE)[None, :], other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        c = c[None, :]
        seen = ((c < start) & (c > position - window)) | ((c >= branch) & (c <= own))
        scores = tl.where(seen & live[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)  # a query that saw nothing yet
        weights = tl.exp2(scores - shift[:, None])
        decay = tl.exp2(top - shift)
        total = total * decay + tl.sum(weights, 1)
        mixed = mixed * decay[:, None]
        mixed += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = new_top

    saw = total > 0.0
    divisor = tl.where(saw, total, 1.0)
    tl.store(
        parts + (out * splits + split)[:, None] * VALUE_SIZE + dv[None, :],
        mixed / divisor[:, None], mask=(mine & saw)[:, None] & (dv < VALUE_SIZE)[None, :],
    )  # fmt: skip
    logarithm = tl.where(saw, top + tl.log2(divisor), float("-inf"))
    tl.store(sums + out * splits + split, logarithm, mask=mine)


@triton.jit(do_not_specialize=["splits"])
def merge_parts(
    parts, sums, merged, splits,
    VALUE_SIZE: tl.constexpr, BLOCK_VALUE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One head's result at one query: its parts by their log-sum-exps; empty ones are not read.

    The sum is of ``SPLITS`` terms however many there are: zeros change nothing.
    """
    out = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    dv = tl.arange(0, BLOCK_VALUE)
    logarithms = tl.load(sums + out * splits + split, mask=split < splits, other=float("-inf"))
    weights = tl.exp2(logarithms - tl.max(logarithms, 0))
    filled = (logarithms > float("-inf"))[:, None] & (dv < VALUE_SIZE)[None, :]
    places = (out * splits + split)[:, None] * VALUE_SIZE + dv[None, :]
    part = tl.load(parts + places, mask=filled, other=0.0)
    mixed = tl.sum(part * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(
        merged + out * VALUE_SIZE + dv, mixed.to(merged.dtype.element_ty), mask=dv < VALUE_SIZE
    )


def compiled_for(
    name: str, capability: int, constants: Mapping[str, int], options: Mapping[str, int]
) -> Any:
    """A kernel of this file as a GPU gets it, by Triton's compiler: for numbers in bfloat16.

    Strides have 64 bits, and what is a pointer or a stride is a multiple of 16.

    Args:
        capability: of the GPU, ten times: 90 for 9.0.
        constants: of the launch, and its ``options``.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    kernel = globals()[name]
    pointers = dict.fromkeys(("positions", "cache_positions", "starts"), "*i64")
    pointers |= dict.fromkeys(("query", "key", "value", "merged"), "*bf16")
    pointers |= dict.fromkeys(("parts", "sums"), "*fp32") | {"tables": "*i32"}
    strides = {f"query_{side}": "i64" for side in ("row", "head", "at")}
    strides |= {f"{x}_{side}": "i64" for x in ("key", "value") for side in ("page", "group", "at")}
    kinds = {**pointers, **strides, "scale": "fp32", **dict.fromkeys(constants, "constexpr")}
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: kinds.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if name in pointers or name in strides
        },
    )
    settings = {**options, "enable_fp_fusion": True}
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=settings)
