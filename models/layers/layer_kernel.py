"""What stands between the products of a decoder layer: the Triton kernels.

Numbers are rounded where transformers' operations round them, so that only sums differ, by the
order in which they are added up. That order depends on sizes alone: neighbours change nothing.

This file imports triton. ``norms``, ``rotary`` and ``gated`` choose the shapes, and import it when
they launch.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rounded(wide, like):
    """Numbers in float32 as those of another type are."""
    return wide.to(like.dtype).to(tl.float32)


@triton.jit
def normalise(
    hidden, added, weight, sums, normed, size, eps, ADDS: tl.constexpr, BLOCK: tl.constexpr
):
    """One row divided by its root mean square, times the weight; of a sum, which is kept, too."""
    row = tl.program_id(0).to(tl.int64) * size
    at = tl.arange(0, BLOCK)
    inside = at < size
    numbers = tl.load(hidden + row + at, mask=inside, other=0.0)
    if ADDS:
        more = tl.load(added + row + at, mask=inside, other=0.0)
        numbers = (numbers.to(tl.float32) + more.to(tl.float32)).to(numbers.dtype)
        tl.store(sums + row + at, numbers, mask=inside)
    wide = numbers.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / size + eps)
    factors = tl.load(weight + at, mask=inside, other=0.0)
    result = rounded(wide * scale, numbers) * factors.to(tl.float32)
    tl.store(normed + row + at, result.to(numbers.dtype), mask=inside)


@triton.jit(do_not_specialize=["heads", "groups"])
def rotate_into_pages(
    joined, cosines, sines, query_weight, key_weight, pages, places, queries, keys, values,
    joined_stride, key_page, key_place, key_group, value_page, value_place, value_group,
    heads, groups, eps, NORMS: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one token: of queries and keys turned by the position, of values as it is."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    at = tl.arange(0, BLOCK)
    inside = at < SIZE
    source = joined + token * joined_stride + head * SIZE
    numbers = tl.load(source + at, mask=inside, other=0.0)
    page = tl.load(pages + token)
    place = tl.load(places + token)
    if head >= heads + groups:
        group = head - heads - groups
        target = values + page * value_page + place * value_place + group * value_group
        tl.store(target + at, numbers, mask=inside)
    else:
        # The other number of each pair, which is turned with it.
        first = at < SIZE // 2
        pair = tl.where(first, at + SIZE // 2, at - SIZE // 2)
        wide = numbers.to(tl.float32)
        others = tl.load(source + pair, mask=inside, other=0.0).to(tl.float32)
        if NORMS:
            scale = tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
            weight = query_weight if head < heads else key_weight
            factors = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
            wide = rounded(rounded(wide * scale, numbers) * factors, numbers)
            factors = tl.load(weight + pair, mask=inside, other=0.0).to(tl.float32)
            others = rounded(rounded(others * scale, numbers) * factors, numbers)
        cosine = tl.load(cosines + token * SIZE + at, mask=inside, other=0.0).to(tl.float32)
        sine = tl.load(sines + token * SIZE + at, mask=inside, other=0.0).to(tl.float32)
        others = tl.where(first, -others, others)
        turned = rounded(wide * cosine, numbers) + rounded(others * sine, numbers)
        if head < heads:
            target = queries + (token * heads + head) * SIZE
        else:
            target = keys + page * key_page + place * key_place + (head - heads) * key_group
        tl.store(target + at, turned.to(numbers.dtype), mask=inside)


@triton.jit
def gate(joined, gated, size, PART: tl.constexpr):
    """One part of a row: the first half's SiLU, times the second half."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * PART + tl.arange(0, PART)
    inside = at < size
    numbers = tl.load(joined + row * 2 * size + at, mask=inside, other=0.0)
    others = tl.load(joined + row * 2 * size + size + at, mask=inside, other=0.0)
    wide = numbers.to(tl.float32)
    result = rounded(wide / (1.0 + tl.exp(-wide)), numbers) * others.to(tl.float32)
    tl.store(gated + row * size + at, result.to(numbers.dtype), mask=inside)
